"""`coder netcheck`: what this network lets through, measured without a tunnel.

`report` is the result and how it is judged (pure); `runner` measures, each part within its time; `text`, `document` and
`command` show it.
"""
