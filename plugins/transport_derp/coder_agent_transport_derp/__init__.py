"""DERP over TCP, TLS and WebSocket: the relay client of a node, and the relay that runs inside a coder server.

The protocol itself is `coder_agent.protocols.derp`; this package owns sockets, HTTP heads, TLS and clocks.
"""
