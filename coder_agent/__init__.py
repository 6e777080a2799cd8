"""Coder's networking in Python.

Rooms: `base` values · `protocols` wire formats and state machines · `magicsock` path choice · `coordination` who may
see whom · `hooks` the doorway for plugins · `runtime` tasks and sockets · `node`, `agent`, `client` composition roots ·
`cli` commands · `testing` tools for plugin authors. ARCHITECTURE.md tells the life of a packet.
"""

__version__ = "0.1.0"
