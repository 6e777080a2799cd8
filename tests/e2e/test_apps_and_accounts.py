"""Apps, shared ports, users and tokens as commands; an agent that declares apps and tells its listening ports."""

from __future__ import annotations

import json
import socket
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from coder_agent.testing.deployment import Deployment, Registered, until


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Deployment, Registered]]:
    with Deployment(tmp_path_factory.mktemp("apps")) as place:
        place.start_server()
        place.sign_in()
        dev = place.create("dev")
        config = place.folder / "agent.toml"
        config.write_text('[[agent.apps]]\nslug = "lab"\nurl = "http://localhost:8888"\nsharing_level = "public"\n')
        place.start_agent(dev, "--config", str(config))
        place.wait_status(dev, "connected")
        yield place, dev


def get(place: Deployment, path: str) -> Any:
    token = (place.user.folder / ".config/coderv2/session").read_text().strip()
    request = urllib.request.Request(f"{place.url}/api/v2{path}", headers={"Coder-Session-Token": token})
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)


def apps(place: Deployment, workspace: str) -> dict[str, Any]:
    listed = json.loads(place.user.coder("app", "list", workspace, "--output", "json").out)
    return {app["slug"]: app for app in listed}


def test_an_agents_configuration_declares_apps(place: tuple[Deployment, Registered]) -> None:
    deployment, dev = place
    lab = until("the agent has declared it", lambda: apps(deployment, dev.name).get("lab"))
    assert (lab["source"], lab["sharing_level"]) == ("agent", "public")


def test_apps_are_added_listed_and_removed(place: tuple[Deployment, Registered]) -> None:
    deployment, dev = place
    coder = deployment.user.coder
    added = coder("app", "add", dev.name, "web", "8080", "--share", "authenticated")
    assert added.code == 0, str(added)
    assert "everybody who can sign in" in added.out
    assert apps(deployment, dev.name)["web"]["url"] == "http://localhost:8080"
    again = coder("app", "add", dev.name, "web", "9090")
    assert again.code != 0
    assert "already" in again.err
    assert coder("app", "add", dev.name, "web", "9090", "--replace").code == 0
    assert "web" in coder("app", "list", dev.name).out
    assert coder("app", "remove", dev.name, "web").code == 0
    assert "web" not in apps(deployment, dev.name)
    wrong = coder("app", "add", dev.name, "Web", "8080")
    assert wrong.code != 0
    assert "Traceback" not in wrong.err


def test_a_workspace_may_be_created_with_apps(place: tuple[Deployment, Registered]) -> None:
    deployment, _ = place
    made = deployment.user.coder("create", "second", "--app", "web=8080", "--app", "x=https://localhost:8443")
    assert made.code == 0, str(made)
    assert {slug: app["url"] for slug, app in apps(deployment, "second").items()} == {
        "web": "http://localhost:8080",
        "x": "https://localhost:8443",
    }
    wrong = deployment.user.coder("create", "third", "--app", "web")
    assert wrong.code != 0
    assert "--app web=http://localhost:8080" in wrong.err


def test_ports_are_shared_and_unshared(place: tuple[Deployment, Registered]) -> None:
    deployment, dev = place
    coder = deployment.user.coder
    shared = json.loads(coder("port-share", dev.name, "8080", "--share", "public", "--output", "json").out)
    assert [(one["port"], one["share_level"]) for one in shared] == [(8080, "public")]
    assert coder("port-share", dev.name, "8080", "--stop").code == 0
    assert "No port is shared" in coder("port-share", dev.name).err


def test_listening_ports_come_through_the_servers_own_tailnet(place: tuple[Deployment, Registered]) -> None:
    deployment, dev = place
    agent = json.loads(deployment.user.coder("list", "--output", "json").out)
    (found,) = [w for w in agent if w["name"] == dev.name]
    agent_id = found["latest_build"]["resources"][0]["agents"][0]["id"]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def shown() -> bool:
            ports = get(deployment, f"/workspaceagents/{agent_id}/listening-ports")["ports"]
            return port in [one["port"] for one in ports]

        until("the agent tells of the port", shown)


def test_who_was_connected_is_told_whichever_way_he_came(place: tuple[Deployment, Registered], tmp_path: Path) -> None:
    deployment, dev = place
    coder = deployment.user.coder
    token = (deployment.user.folder / ".config/coderv2/session").read_text().strip()
    (tmp_path / "big").write_bytes(b"x" * 100_000)
    program = [sys.executable, "-m", "http.server", "0", "--bind", "127.0.0.1", "-d", str(tmp_path)]
    port = deployment.start(deployment.workspace, *program).wait_for(r"port (\d+)")[1]
    with httpx2.Client(
        base_url=deployment.url, headers={"Coder-Session-Token": token, "User-Agent": "the-test"}
    ) as web:
        replies = [web.get(f"/@alice/dev/ports/{port}/{name}") for name in ("big", "none")]
    assert [reply.status_code for reply in replies] == [200, 404]
    ids = [reply.headers["X-Coder-Request-Id"] for reply in replies]
    assert ids[1] == ids[0].replace("-1", "-2")  # one connection, two requests
    assert coder("ping", dev.name, "-n", "1").code == 0

    def logged() -> list[Any]:
        found = coder("connections", dev.name, "--output", "json").json()
        return found if {"tunnel", "port_forwarding"} <= {one["type"] for one in found} else []

    found = {one["type"]: one for one in until("the log has both", lambda: logged() or None)}
    visit, tunnel = found["port_forwarding"], found["tunnel"]
    assert (visit["user"]["username"], visit["web_info"]["slug_or_port"]) == ("alice", port)
    assert (visit["web_info"]["user_agent"], visit["disconnect_time"]) == ("the-test", None)  # he may come back
    assert tunnel["user"]["username"] == "alice"
    table = coder("connections", dev.name).out
    assert f"port {port}" in table
    assert "alice/dev.main" in table
    assert coder("connections", dev.name, "--open").out.count("\n") >= 2
    assert coder("connections", "nowhere").code != 0


def test_a_new_token_locks_the_old_agent_out(place: tuple[Deployment, Registered]) -> None:
    deployment, _ = place
    coder = deployment.user.coder
    spare = deployment.create("spare")
    deployment.start_agent(spare)
    deployment.wait_status(spare, "connected")
    asked = coder("agent-token", "spare")
    assert asked.code != 0
    assert "--yes" in asked.err
    line = coder("agent-token", "spare", "--yes").out.strip()
    assert line.startswith(f"CODER_AGENT_URL={deployment.url} CODER_AGENT_TOKEN=")
    assert spare.token not in line
    deployment.wait_status(spare, "disconnected")
    assert coder("delete", "spare", "--yes").code == 0


def test_users_and_tokens(place: tuple[Deployment, Registered]) -> None:
    deployment, _ = place
    coder = deployment.user.coder
    password = {"CODER_NEW_USER_PASSWORD": "S3cure-pass-1"}
    made = coder("users", "create", "bob", "--email", "bob@example.com", env=password)
    assert made.code == 0, str(made)
    assert "bob@example.com" in coder("users", "list").out
    token = coder("tokens", "create", "--name", "ci", "--lifetime", "1h", "--scope", "workspace:read").out.strip()
    assert token.partition("-")[0] in coder("tokens", "list").out
    reader = coder("list", env={"CODER_SESSION_TOKEN": token})
    assert reader.code == 0, str(reader)
    refused = coder("create", "fourth", env={"CODER_SESSION_TOKEN": token})
    assert refused.code != 0
    assert coder("tokens", "remove", "ci").code == 0
    assert coder("tokens", "remove", "ci").code != 0
    assert token not in coder("tokens", "list").out


def test_signing_out_forgets_the_session(place: tuple[Deployment, Registered], tmp_path: Path) -> None:
    deployment, _ = place
    token = deployment.user.coder("tokens", "create", "--name", "other").out.strip()
    elsewhere = {"CODER_CONFIG_DIR": str(tmp_path), "CODER_URL": deployment.url}
    signed_in = deployment.user.coder("login", deployment.url, "--token", token, env=elsewhere)
    assert signed_in.code == 0, str(signed_in)
    assert (tmp_path / "session").exists()
    assert deployment.user.coder("logout", env=elsewhere).code == 0
    assert not (tmp_path / "session").exists()
