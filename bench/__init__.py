"""The benchmarks of docs/benchmarks.md: real processes in network namespaces, foreign programs beside them.

`runner` picks and prints; `rows` is what a benchmark yields and its bar; `place` starts server, agent and commands;
`tailcat` and `echo` are the peers; the groups (`direct`, `relayed`, `latency`, `footprint`, `integrity`,
`staying_up`, `netcheck`) measure.
"""
