"""Air gap: with it enabled, nothing is sent and no name is looked up outside an allow-list.

entries.py reads what an operator may write, policy.py decides (both pure), command.py is `coder airgap check`.
"""
