"""Speed tests through the tunnel: the wire protocol is tailscale's net/speedtest, version 2."""

PORT = 3
"""TCP port inside the tunnel (coder tailnet/conn.go)."""
