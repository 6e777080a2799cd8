"""The documents have the fields and types that stock clients decode: compared with examples, structure by structure."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import pytest
from coder_agent_server.documents.network import milliseconds
from coder_agent_server.testing import Api, Server

pytestmark = pytest.mark.anyio

# What a stock client expects, by shape: UUID, TIME, or a value's type; OPTIONAL(x) may be null.
ID, TIME = "id", "time"


class Optional:
    """May be null."""

    def __init__(self, shape: object) -> None:
        self.shape = shape


USER = {
    "id": ID, "username": str, "name": str, "email": str, "avatar_url": str, "created_at": TIME, "updated_at": TIME,
    "last_seen_at": TIME, "status": str, "login_type": str, "theme_preference": str, "organization_ids": [ID],
    "roles": [{"name": str, "display_name": str}],
}  # fmt: skip
AGENT = {
    "id": ID, "parent_id": Optional(ID), "created_at": TIME, "updated_at": TIME, "first_connected_at": Optional(TIME),
    "last_connected_at": Optional(TIME), "disconnected_at": Optional(TIME), "started_at": Optional(TIME),
    "ready_at": Optional(TIME), "status": str, "lifecycle_state": str, "name": str, "resource_id": ID,
    "architecture": str, "operating_system": str, "environment_variables": {}, "logs_length": int,
    "logs_overflowed": bool, "directory": str, "expanded_directory": str, "version": str, "api_version": str,
    "connection_timeout_seconds": int, "troubleshooting_url": str, "subsystems": [str],
    "health": {"healthy": bool, "reason": str}, "display_apps": [str], "log_sources": [], "scripts": [],
    "startup_script_behavior": str, "latency": {}, "apps": [],
}  # fmt: skip
JOB = {
    "id": ID, "created_at": TIME, "started_at": TIME, "completed_at": TIME, "status": str, "file_id": ID, "tags": {},
    "queue_position": int, "queue_size": int, "organization_id": ID, "input": {}, "type": str,
    "metadata": {
        "template_version_name": str, "template_id": ID, "template_name": str, "template_display_name": str,
        "template_icon": str,
    },
}  # fmt: skip
BUILD = {
    "id": ID, "created_at": TIME, "updated_at": TIME, "workspace_id": ID, "workspace_name": str,
    "workspace_owner_id": ID, "workspace_owner_name": str, "workspace_owner_avatar_url": str,
    "template_version_id": ID, "template_version_name": str, "build_number": int, "transition": str,
    "initiator_id": ID, "initiator_name": str, "reason": str, "status": str, "daily_cost": int,
    "deadline": Optional(TIME), "max_deadline": Optional(TIME), "matched_provisioners": Optional({}), "job": JOB,
    "resources": [{
        "id": ID, "created_at": TIME, "job_id": ID, "workspace_transition": str, "type": str, "name": str,
        "hide": bool, "icon": str, "metadata": [], "daily_cost": int, "agents": [AGENT],
    }],
}  # fmt: skip
WORKSPACE = {
    "id": ID, "created_at": TIME, "updated_at": TIME, "owner_id": ID, "owner_name": str, "owner_avatar_url": str,
    "organization_id": ID, "organization_name": str, "template_id": ID, "template_name": str,
    "template_display_name": str, "template_icon": str, "template_allow_user_cancel_workspace_jobs": bool,
    "template_active_version_id": ID, "template_require_active_version": bool,
    "template_use_classic_parameter_flow": bool, "latest_build": BUILD, "latest_app_status": Optional({}),
    "outdated": bool, "name": str, "autostart_schedule": Optional(str), "ttl_ms": Optional(int), "last_used_at": TIME,
    "deleting_at": Optional(TIME), "dormant_at": Optional(TIME), "health": {"healthy": bool, "failing_agents": [ID]},
    "automatic_updates": str, "allow_renames": bool, "favorite": bool, "next_start_at": Optional(TIME),
    "is_prebuild": bool,
}  # fmt: skip
API_KEY = {
    "id": str, "user_id": ID, "last_used": TIME, "expires_at": TIME, "created_at": TIME, "updated_at": TIME,
    "login_type": str, "scope": str, "lifetime_seconds": int, "token_name": str, "username": str,
}  # fmt: skip
ORGANIZATION = {
    "id": ID, "name": str, "display_name": str, "description": str, "icon": str, "created_at": TIME,
    "updated_at": TIME, "is_default": bool,
}  # fmt: skip
BUILD_INFO = {
    "external_url": str, "version": str, "dashboard_url": str, "telemetry": bool, "workspace_proxy": bool,
    "agent_api_version": str, "provisioner_api_version": str, "upgrade_message": str, "deployment_id": ID,
    "webpush_public_key": str,
}  # fmt: skip
TEMPLATE_VERSION = {
    "id": ID, "template_id": ID, "organization_id": ID, "created_at": TIME, "updated_at": TIME, "name": str,
    "message": str, "readme": str, "archived": bool, "warnings": [str], "matched_provisioners": Optional({}),
    "has_external_agent": bool, "created_by": {"id": ID, "username": str, "avatar_url": str},
    "job": {
        "id": ID, "created_at": TIME, "completed_at": TIME, "status": str, "file_id": ID, "tags": {},
        "queue_position": int, "queue_size": int,
    },
}  # fmt: skip
REGIONS = {
    "regions": [{
        "id": ID, "name": str, "display_name": str, "icon_url": str, "healthy": bool, "path_app_url": str,
        "wildcard_hostname": str,
    }],
}  # fmt: skip


def check(document: Any, shape: Any, at: str = "") -> None:
    """Every field of `shape` is there with the right type; more may be, and strings are never empty where ids are."""
    if isinstance(shape, Optional):
        if document is not None:
            check(document, shape.shape, at)
    elif isinstance(shape, dict):
        assert isinstance(document, dict), at
        missing = shape.keys() - document.keys()
        assert not missing, f"{at}: {missing}"
        for key, inner in shape.items():
            check(document[key], inner, f"{at}.{key}")
    elif isinstance(shape, list):
        assert isinstance(document, list), f"{at} is {document!r}"
        for item in document:
            check(item, shape[0] if shape else object, f"{at}[]")
    elif shape == ID:
        UUID(document)
    elif shape == TIME:
        assert document.endswith("Z"), at
        assert datetime.fromisoformat(document).utcoffset() is not None, at
    elif shape is not object:
        assert type(document) is shape, f"{at} is {document!r}"


@pytest.fixture
async def dev(alice: Api) -> dict[str, Any]:
    """A registered workspace."""
    reply = await alice.post("/api/v2/users/me/workspaces", json={"name": "dev"})
    assert reply.status_code == 201, reply.text
    document: dict[str, Any] = reply.json()
    return document


async def test_documents_have_the_shape_that_clients_decode(alice: Api, dev: dict[str, Any]) -> None:
    await alice.post("/api/v2/users/me/keys/tokens", json={"token_name": "t"})
    version = dev["latest_build"]["template_version_id"]
    agent = dev["latest_build"]["resources"][0]["agents"][0]["id"]
    for path, shape in {
        "/users/me": USER,
        "/users/me/organizations": [ORGANIZATION],
        "/organizations": [ORGANIZATION],
        "/organizations/default": ORGANIZATION,
        "/users/me/keys/tokens": [API_KEY],
        "/workspaces?q=owner:me": {"workspaces": [WORKSPACE], "count": int},
        "/users/me/workspace/dev": WORKSPACE,
        f"/workspaces/{dev['id']}": WORKSPACE,
        f"/workspacebuilds/{dev['latest_build']['id']}": BUILD,
        f"/templateversions/{version}": TEMPLATE_VERSION,
        f"/workspaceagents/{agent}": AGENT,
        f"/workspaceagents/{agent}/logs": [],
        f"/workspaceagents/{agent}/containers": {"containers": [], "devcontainers": []},
        f"/workspaceagents/{agent}/listening-ports": {"ports": []},
        "/buildinfo": BUILD_INFO,
        "/regions": REGIONS,
        "/deployment/ssh": {"hostname_prefix": str, "hostname_suffix": str, "ssh_config_options": {}},
        "/appearance": {"docs_url": str, "service_banner": {"enabled": bool}, "announcement_banners": []},
        "/entitlements": {"features": {}, "warnings": [], "errors": [], "refreshed_at": TIME},
        "/experiments": [],
        "/experiments/available": {"safe": []},
        "/applications/host": {"host": str},
        "/updatecheck": {"current": bool, "version": str, "url": str},
        "/users/authmethods": {"password": {"enabled": bool}, "oidc": {"enabled": bool, "signInText": str}},
    }.items():
        reply = await alice.get(f"/api/v2{path}")
        assert reply.status_code == 200, path
        check(reply.json(), shape, path)


async def test_constants_send_clients_straight_to_the_agent(alice: Api, dev: dict[str, Any]) -> None:
    build = dev["latest_build"]
    assert (build["transition"], build["status"], build["job"]["status"]) == ("start", "running", "succeeded")
    assert build["resources"][0]["agents"][0]["name"] == "main"
    assert (await alice.get("/api/v2/regions")).json()["regions"][0]["name"] == "primary"


@pytest.mark.parametrize("generic", [True, False])
async def test_connection_info_carries_the_relay_map_in_go_names(
    server: Server, alice: Api, dev: dict[str, Any], generic: bool
) -> None:
    agent = dev["latest_build"]["resources"][0]["agents"][0]["id"]
    path = "/api/v2/workspaceagents/connection" if generic else f"/api/v2/workspaceagents/{agent}/connection"
    info = (await alice.get(path)).json()
    assert info["derp_force_websockets"] is False
    assert info["disable_direct_connections"] is False
    assert info["hostname_suffix"] == "coder"
    region = info["derp_map"]["Regions"]["999"]
    assert (region["RegionCode"], region["EmbeddedRelay"], region["RegionID"]) == ("coder", True, 999)
    (node,) = region["Nodes"]
    host, port = server.address
    assert (node["Name"], node["HostName"], node["DERPPort"]) == ("999b", host, port)
    assert node["ForceHTTP"] is True
    assert node["STUNPort"] == -1
    assert "HomeParams" in info["derp_map"]


async def test_every_reply_carries_our_version_even_those_to_nowhere(server: Server, alice: Api) -> None:
    for path, status in {
        "/": 200,
        "/healthz": 200,
        "/nowhere": 404,
        "/api/v2": 200,
        "/api/v2/": 200,
        "/api/v2/nowhere": 404,
        "/api/v2/users/me/": 404,
        "/derp": 426,
        "/derp/latency-check": 200,
        "/latency-check": 200,
        "/api/v2/workspaces/not-a-uuid": 400,
    }.items():
        reply = await alice.get(path)
        assert reply.status_code == status, path
        assert reply.headers["x-coder-build-version"].startswith("v0.0.0-coder-agent+"), path
        if status == 404:
            assert reply.json()["message"], path
    wrong_method = await alice.post("/api/v2/buildinfo")
    assert wrong_method.status_code == 405
    assert wrong_method.json()["message"]


@pytest.mark.parametrize(
    ("text", "value"),
    [("1.234ms", 1.234), ("12.5µs", 0.013), ("2s", 2000.0), ("0s", 0.0), ("", None), ("1m2s", None), ("-1ms", None)],
    ids=["ms", "us", "s", "none", "empty", "minutes", "negative"],
)
def test_round_trips_of_a_report_are_read_to_the_microsecond(text: str, value: float | None) -> None:
    assert milliseconds(text) == value
