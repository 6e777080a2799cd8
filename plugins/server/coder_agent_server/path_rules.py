"""Rules for the paths to a workspace: the deployment's above its own."""

from __future__ import annotations

from dataclasses import replace

from coder_agent.base.path_rules import NO_RULES, PathRules
from coder_agent.base.path_rules_json import rules_from_json, rules_to_json

from .options import ServerOptions
from .store.schema import Workspace


def own_rules(workspace: Workspace) -> PathRules:
    """What was set for this workspace."""
    rules = rules_from_json(workspace.path_rules)
    label = f"{workspace.owner.username}/{workspace.name}"
    return NO_RULES if rules == NO_RULES else replace(rules, set_by=f"the deployment's rule for {label}")


def rules_for(options: ServerOptions, workspace: Workspace | None) -> PathRules:
    """What holds for a workspace, or (None) for the deployment as a whole."""
    return options.rules if workspace is None else own_rules(workspace).under(options.rules)


def stored(rules: PathRules) -> dict[str, object]:
    """As the store keeps them: without whose they are, which the workspace's name says."""
    return {} if replace(rules, set_by="") == NO_RULES else rules_to_json(replace(rules, set_by=""))
