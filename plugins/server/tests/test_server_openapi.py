"""The OpenAPI document describes every route, and Schemathesis finds nothing that it does not."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from coder_agent_server.app import build_app
from coder_agent_server.testing import first_user, run_server
from starlette.applications import Starlette
from starlette.routing import Mount, Route

pytestmark = pytest.mark.anyio

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
CHECKS = "not_a_server_error,content_type_conformance,response_schema_conformance,status_code_conformance"
NOT_FUZZED = r"/(watch|reinit|watch-metadata|logout|stream|live|debug/health|openapi\.json)"
"""Streams that never end, the end of the session that asks, and a report that visits the network."""
EXAMPLES = 4
SECONDS = 240


async def test_every_route_is_described(tmp_path: Path) -> None:
    async with run_server(tmp_path) as server, first_user(server.url) as alice:
        document = (await alice.get("/api/v2/openapi.json")).json()
        app = getattr(build_app(server.running.deployment), "_app", None)
    assert isinstance(app, Starlette)
    (api,) = [route for route in app.routes if isinstance(route, Mount) and route.path == "/api/v2"]
    routes = {
        (method.lower(), re.sub(r":\w+}", "}", route.path))
        for route in api.routes
        if isinstance(route, Route) and route.path != "/openapi.json"
        for method in (route.methods or set()) - {"HEAD"}
    }
    described = {(method, path) for path, item in document["paths"].items() for method in item}
    assert described == routes
    assert document["openapi"].startswith("3.1")
    body = document["paths"]["/workspaces/{workspace}/port-share"]["post"]["requestBody"]
    assert body["content"]["application/json"]["schema"]["$ref"].endswith("/ShareBody")
    assert all(operation["summary"] for item in document["paths"].values() for operation in item.values())


@pytest.mark.foreign
@pytest.mark.skipif(not SCHEMATHESIS.exists(), reason="Schemathesis is not installed")
async def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    async with run_server(tmp_path / "server", login_rate_limit=-1) as server, first_user(server.url) as alice:
        command = [str(SCHEMATHESIS), "run", f"{server.url}/api/v2/openapi.json"]
        command += ["--header", f"Coder-Session-Token: {alice.token}", "--checks", CHECKS, "--seed", "20260101"]
        command += ["--max-examples", str(EXAMPLES), "--phases", "coverage,fuzzing", "--exclude-path-regex", NOT_FUZZED]
        command += ["--generation-deterministic", "--no-color", "--request-timeout", "20", "--workers", "1"]
        with anyio.fail_after(SECONDS):
            result = await anyio.run_process(command, check=False, cwd=tmp_path, stderr=subprocess.STDOUT)
        assert result.returncode == 0, result.stdout.decode()[-6000:]
        still = await alice.get("/api/v2/users/me")
        assert still.json()["username"] == "alice"
