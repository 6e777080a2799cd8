"""Ports of a workspace on the user's machine, and the other way round. Start with grammar.py and tcp.py."""

PORT = 8
"""TCP port of the agent's half, inside the tunnel; Coder's agents leave it free."""
