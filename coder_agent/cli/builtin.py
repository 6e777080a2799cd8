"""The core's own commands, through the same hook as everybody else's. Registered even with --no-plugins."""

from __future__ import annotations

from collections.abc import Sequence

from ..hooks.interfaces import CommandSpec
from ..hooks.markers import hookimpl


@hookimpl
def coder_commands() -> Sequence[CommandSpec]:
    """Sign in, register workspaces, run an agent, look at plugins and configuration."""
    here = "coder_agent.cli"
    return [
        CommandSpec("login", "Sign in to a coder server, or make its first user.", f"{here}.login:login"),
        CommandSpec("create", "Register a workspace and print its agent's start line.", f"{here}.workspaces:create"),
        CommandSpec("list", "List workspaces and whether their agents are connected.", f"{here}.workspaces:list_"),
        CommandSpec("delete", "Remove a workspace.", f"{here}.workspaces:delete"),
        CommandSpec("agent-token", "Make a new token for a workspace's agent.", f"{here}.records:agent_token"),
        CommandSpec("connections", "Show who was connected to a workspace.", f"{here}.records:connections"),
        CommandSpec("add", "Declare a web app of a workspace.", f"{here}.apps:add", group="app"),
        CommandSpec("list", "List the apps of a workspace.", f"{here}.apps:list_", group="app"),
        CommandSpec("remove", "Forget an app of a workspace.", f"{here}.apps:remove", group="app"),
        CommandSpec("port-share", "Let others open a port in the browser.", f"{here}.apps:port_share"),
        CommandSpec("create", "Make an account; for owners.", f"{here}.accounts:create_user", group="users"),
        CommandSpec("list", "List accounts.", f"{here}.accounts:list_users", group="users"),
        CommandSpec("delete", "Remove an account.", f"{here}.user_changes:delete_user", group="users"),
        CommandSpec("suspend", "Keep somebody out.", f"{here}.user_changes:suspend_user", group="users"),
        CommandSpec("activate", "Let somebody in again.", f"{here}.user_changes:activate_user", group="users"),
        CommandSpec("edit-roles", "Say who is an owner.", f"{here}.user_changes:edit_roles", group="users"),
        CommandSpec("password", "Set a new password.", f"{here}.user_changes:change_password", group="users"),
        CommandSpec("create", "Make a token for a program.", f"{here}.accounts:create_token", group="tokens"),
        CommandSpec("list", "List named tokens.", f"{here}.accounts:list_tokens", group="tokens"),
        CommandSpec("remove", "Revoke a token.", f"{here}.accounts:remove_token", group="tokens"),
        CommandSpec("logout", "Sign out.", f"{here}.accounts:logout"),
        CommandSpec("path-rules", "Show or change how a workspace may be reached.", f"{here}.path_rules:path_rules"),
        CommandSpec("completion", "Print or install a script for shell completion.", f"{here}.completion:completion"),
        CommandSpec("run", "Run the agent of a workspace.", f"{here}.agent:run", program="coder-agent"),
        CommandSpec(
            "list", "List plugins, with what is wrong with broken ones.", f"{here}.plugins:list_", group="plugins"
        ),
        CommandSpec("info", "Tell everything about one plugin.", f"{here}.plugins:info", group="plugins"),
        CommandSpec("hooks", "List the hooks and who implements them.", f"{here}.plugins:hooks", group="plugins"),
        CommandSpec("show", "Print the effective configuration.", f"{here}.config:show", group="config"),
    ]
