"""Cases that every implementation of an interface must pass: subclass, say how to make yours, run with pytest."""
