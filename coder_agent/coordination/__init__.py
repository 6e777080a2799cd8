"""Who may see whom: tunnels, roles, peer updates. Pure: no I/O, no clock.

Read interface.py first (what any coordinator offers), then core.py (ours, in memory) and roles.py (who may what).
"""
