"""SSH to workspaces: the agent's server on tunnel ports 1 and 22, `coder ssh`, `coder config-ssh`."""
