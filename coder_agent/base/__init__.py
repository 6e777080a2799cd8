"""Values: keys, addresses, nodes, relay map, bursts. Parse and format only; no I/O, no clock.

Imports nothing of ours but `errors`.
"""
