"""What carries the tunnel, and why: `coder ping`."""
