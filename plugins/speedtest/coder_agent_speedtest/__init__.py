"""Speed tests through the tunnel: the wire protocol is tailscale's net/speedtest, version 2."""
