"""DERP, the relay protocol, version 2: frames, the two login sides, and a relay's forwarding core.

Read first: `frames` (layouts), then `stream` (bytes to runs), then `client` or `server`.
Not here: HTTP, TLS and WebSocket, which carry the byte stream (the transport_derp plugin).
"""
