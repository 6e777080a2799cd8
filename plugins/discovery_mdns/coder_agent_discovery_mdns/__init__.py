"""Peers on the same LAN, found by multicast DNS (RFC 6762, 6763): with no Internet, no server and no STUN.

names.py says what a node is called there, lan.py which addresses count (both pure), responder.py is the shell around
zeroconf, source.py joins them to a node.
"""
