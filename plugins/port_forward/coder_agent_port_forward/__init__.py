"""Ports of a workspace on the user's machine, and the other way round. Start with grammar.py and tcp.py."""
