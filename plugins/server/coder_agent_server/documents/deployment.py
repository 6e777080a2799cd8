"""Documents about the deployment itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coder_agent.base.derp_map_json import to_json
from coder_agent.base.path_rules import DirectRule
from coder_agent.base.path_rules_json import rules_to_json

from ..path_rules import rules_for
from . import Document, moment

if TYPE_CHECKING:
    from ..deployment import Deployment
    from ..store.schema import Workspace

HOME_PAGE = "https://github.com/coder/coder"
"""`external_url` and `docs_url`: where people may read about what this is compatible with."""
DOCS_URL = "https://coder.com/docs"


def build_info_document(server: Deployment) -> Document:
    """`GET /buildinfo`. `agent_api_version` is a constant of old; the RPC version is negotiated elsewhere."""
    return {
        "external_url": HOME_PAGE,
        "version": server.version,
        "dashboard_url": server.access_url,
        "telemetry": False,
        "workspace_proxy": False,
        "agent_api_version": "1.0",
        "provisioner_api_version": "1.0",
        "upgrade_message": "",
        "deployment_id": str(server.facts.id),
        "webpush_public_key": "",
    }


def connection_document(server: Deployment, workspace: Workspace | None = None) -> Document:
    """What a client needs to build its side of the tailnet, to reach `workspace`. `path_rules` is ours: stock clients
    know the one rule that has a name of its own."""
    rules = rules_for(server.options, workspace)
    return {
        "derp_map": {"HomeParams": {"RegionScore": {}}, **to_json(server.derp_map.current)},
        "derp_force_websockets": server.options.relay.force_websockets,
        "disable_direct_connections": rules.direct is DirectRule.NEVER,
        "path_rules": rules_to_json(rules),
        "hostname_suffix": server.options.hostname_suffix,
    }


def regions_document(server: Deployment) -> Document:
    """`GET /regions`: the server itself, `primary`, is the only one."""
    return {
        "regions": [
            {
                "id": str(server.facts.id),
                "name": "primary",
                "display_name": "Default",
                "icon_url": "/emojis/1f3e1.png",
                "healthy": True,
                "path_app_url": server.access_url,
                "wildcard_hostname": server.options.wildcard_access_url,
            }
        ]
    }


def ssh_document(server: Deployment) -> Document:
    """What `coder config-ssh` writes."""
    return {
        "hostname_prefix": server.options.hostname_prefix,
        "hostname_suffix": server.options.hostname_suffix,
        "ssh_config_options": {},
    }


def appearance_document() -> Document:
    """Names and banners: none of our own."""
    return {
        "application_name": "",
        "logo_url": "",
        "docs_url": DOCS_URL,
        "service_banner": {"enabled": False},
        "announcement_banners": [],
        "support_links": [],
    }


def entitlements_document(server: Deployment) -> Document:
    """There are no licences here: nothing is switched off for want of one."""
    return {
        "features": {},
        "warnings": [],
        "errors": [],
        "has_license": False,
        "trial": False,
        "require_telemetry": False,
        "refreshed_at": moment(server.clock()),
    }
