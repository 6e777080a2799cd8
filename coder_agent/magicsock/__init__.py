"""Which path carries the next packet: candidates, probes, trust, switching. Pure: no I/O, no clock."""
