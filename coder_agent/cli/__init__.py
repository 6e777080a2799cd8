"""The command line: parse, call a composition root, print. Nothing is decided here.

Read app.py first. A command is a CommandSpec (hooks/interfaces.py); what it runs is imported when it runs, so this
package must not import node, agent, client or pydantic at module level.
"""
