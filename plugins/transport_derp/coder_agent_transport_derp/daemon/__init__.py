"""`coder derp`: the relay as a program of its own, without a coder server, database or web framework.

Read first: `program.py` (what runs), then `door.py` (HTTP before the relay), `admission.py` (who may come in) and
`mesh.py` (the other relays of the region).
"""
