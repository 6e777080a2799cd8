"""Who may see whom: tunnels, roles, peer updates. Pure: no I/O, no clock."""
