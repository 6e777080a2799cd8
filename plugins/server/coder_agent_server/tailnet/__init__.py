"""The server's own node in the tailnet: one for everything that the server itself carries into workspaces."""
