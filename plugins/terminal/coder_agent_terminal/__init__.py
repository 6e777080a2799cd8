"""Terminals of a workspace: Coder's reconnecting PTY on the agent, a page in the browser, and `coder terminal`.

`protocol`, `history` and `escapes` are cores without I/O; `pty_process`, `sessions` and `service` run on the agent,
`routes` and `page` in the server, `command`, `viewer` and `local_tty` on the user's machine.
"""

PORT = 2
"""The agent's port inside the tunnel (coder codersdk/workspacesdk/workspacesdk.go)."""
