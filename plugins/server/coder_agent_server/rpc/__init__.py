"""The control connections: dRPC over yamux over a WebSocket, for agents (agent.py) and users (client.py)."""
