"""Apps as a manifest names them."""

from __future__ import annotations

from urllib.parse import urlsplit

from coder_agent.protocols.tailnet.proto import agent_pb2 as pb

from ..documents.apps import subdomain_name
from ..options import ServerOptions
from ..store.schema import Agent, App


def app_to_proto(app: App, agent: Agent) -> pb.WorkspaceApp:
    """An app. Stock agents refuse sharing levels and healths of 0, and read `healthcheck` without asking."""
    name = subdomain_name(app, agent)
    made = pb.WorkspaceApp(
        id=app.id.bytes,
        url=app.url,
        external=app.external,
        slug=app.slug,
        display_name=app.display_name or app.slug,
        command=app.command,
        icon=app.icon,
        subdomain=app.subdomain and bool(name),
        subdomain_name=name,
        sharing_level=pb.WorkspaceApp.SharingLevel.Value(app.sharing_level.upper()),
        health=pb.WorkspaceApp.Health.Value(app.health.upper()),
        hidden=app.hidden,
        healthcheck=pb.WorkspaceApp.Healthcheck(url=app.healthcheck_url, threshold=app.healthcheck_threshold),
    )
    made.healthcheck.interval.FromSeconds(app.healthcheck_interval)
    return made


def port_proxy_uri(options: ServerOptions, access_url: str, agent: Agent) -> str:
    """The template of port URLs, with ``{{port}}`` for editors to fill in; empty without a wildcard host.

    Source: coder coderd/agentapi/manifest.go, vscodeProxyURI.
    """
    if not options.wildcard_access_url:
        return ""
    suffix = options.wildcard_access_url.removeprefix("*").rstrip(".")
    access = urlsplit(access_url)
    port = f":{access.port}" if access.port is not None and ":" not in suffix else ""
    workspace = agent.workspace
    return f"{access.scheme}://{{{{port}}}}--{agent.name}--{workspace.name}--{workspace.owner.username}{suffix}{port}"
