"""App and port-share documents."""

from __future__ import annotations

from ..store.schema import Agent, App, PortShare
from . import Document

MAX_LABEL = 63
"""Characters of one label of a host name (RFC 1035 §2.3.4): a longer one cannot be looked up."""


def app_document(app: App, agent: Agent) -> Document:
    """An app as part of its agent. `order`, `cors_behavior`, `trusted` and `source` are not in the stock document."""
    name = subdomain_name(app, agent)
    return {
        "id": str(app.id),
        "url": app.url or None,
        "external": app.external,
        "slug": app.slug,
        "display_name": app.display_name or app.slug,
        "command": app.command,
        "icon": app.icon,
        "subdomain": app.subdomain and bool(name),
        "subdomain_name": name,
        "sharing_level": app.sharing_level,
        "healthcheck": {
            "url": app.healthcheck_url,
            "interval": app.healthcheck_interval,
            "threshold": app.healthcheck_threshold,
        },
        "health": app.health,
        "group": "",
        "hidden": app.hidden,
        "open_in": app.open_in,
        "order": app.order,
        "cors_behavior": app.cors_behavior,
        "trusted": app.trusted,
        "source": app.source,
        "statuses": [],
    }


def subdomain_name(app: App, agent: Agent) -> str:
    """``slug--workspace--user``, the label before the wildcard's suffix; with the agent's name where there are several.

    Empty if it has none, or if it would be too long. Source: coder coderd/workspaceapps/appurl/appurl.go.
    """
    if not app.subdomain:
        return ""
    workspace = agent.workspace
    name = f"{app.slug}--{workspace.name}--{workspace.owner.username}"
    return name if len(name) <= MAX_LABEL else ""


def share_document(share: PortShare) -> Document:
    """A shared port; `trusted` is ours."""
    return {
        "workspace_id": str(share.workspace_id),
        "agent_name": share.agent_name,
        "port": share.port,
        "share_level": share.share_level,
        "protocol": share.protocol,
        "trusted": share.trusted,
    }
