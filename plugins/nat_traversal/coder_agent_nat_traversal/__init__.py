"""Where can peers reach us? Three candidate sources: interface addresses, STUN, and what the user configured.

plan.py decides whom to ask and when, report.py is one round of asking (both pure), stun.py is their shell.
"""
