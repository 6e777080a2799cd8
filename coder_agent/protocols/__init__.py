"""Wire formats and their state machines: bytes in, effects out.

Nothing here touches a socket, a clock, a random source or a log: cores take `now` (monotonic seconds), `rng` and
sometimes `wall` (Unix seconds). Junk from the network never raises out of a datagram core; it is counted.
"""
