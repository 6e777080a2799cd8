"""`coder server` as a process: what it prints, how it fails, how it ends, and that kill -9 loses nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc
import pytest
from anyio.streams.text import TextReceiveStream
from coder_agent_server.testing import Api, first_user, sign_in

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

PROGRAM = [sys.executable, "-c", "from coder_agent.cli.app import main; raise SystemExit(main())"]


def environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CODER_")}
    return {**kept, "HOME": str(home), "XDG_DATA_HOME": str(home / "share"), "XDG_CONFIG_HOME": str(home / "config")}


def command(home: Path, *args: str) -> list[str]:
    return [*PROGRAM, "server", "--data-dir", str(home / "data"), "--stun-address", "disable", *args]


class Process:
    """A running `coder server`."""

    def __init__(self, process: anyio.abc.Process) -> None:
        self.process = process
        self.lines: list[str] = []
        assert process.stdout is not None
        self._text = TextReceiveStream(process.stdout)
        self._rest = ""

    async def wait_url(self) -> str:
        """Read the start-up lines up to the one that says where it is."""
        with anyio.fail_after(90):
            while True:
                self._rest += await self._text.receive()
                *complete, self._rest = self._rest.split("\n")
                self.lines += complete
                for line in complete:
                    if line.startswith("View the Web UI: "):
                        return line.removeprefix("View the Web UI: ")

    async def end(self, kind: signal.Signals) -> int:
        """Send a signal; the exit code."""
        self.process.send_signal(kind)
        with anyio.fail_after(30):
            return await self.process.wait()


@asynccontextmanager
async def start(home: Path, *args: str) -> AsyncIterator[Process]:
    arguments = command(home, "--http-address", "127.0.0.1:0", *args)
    async with await anyio.open_process(arguments, stderr=subprocess.DEVNULL, env=environment(home)) as process:
        try:
            yield Process(process)
        finally:
            if process.returncode is None:
                process.kill()


async def test_it_says_where_it_is_and_stops_when_told(tmp_path: Path) -> None:
    async with start(tmp_path) as server:
        url = await server.wait_url()
        assert f"Started HTTP listener at {url}" in server.lines
        async with Api(url) as api:
            assert (await api.get("/healthz")).text == "OK"
        assert await server.end(signal.SIGINT) == 0


async def test_sigterm_stops_it_too_even_with_a_connection_that_never_ends(tmp_path: Path) -> None:
    async with start(tmp_path) as server:
        url = await server.wait_url()
        host, _, port = url.removeprefix("http://").partition(":")
        async with await anyio.connect_tcp(host, int(port)) as idle:
            await idle.send(b"GET /derp HTTP/1.1\r\nHost: x\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n")
            await idle.receive()
            assert await server.end(signal.SIGTERM) == 0


async def test_kill_9_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    async with start(tmp_path) as server:
        url = await server.wait_url()
        async with first_user(url) as alice:
            for name in ("one", "two"):
                assert (await alice.post("/api/v2/users/me/workspaces", json={"name": name})).status_code == 201
            await server.end(signal.SIGKILL)
        token = alice.token
    async with start(tmp_path) as server:
        url = await server.wait_url()
        async with Api(url, token) as alice:
            listed = (await alice.get("/api/v2/workspaces?q=owner:me")).json()
            assert [workspace["name"] for workspace in listed["workspaces"]] == ["one", "two"]
        async with sign_in(url, "alice"):
            pass


async def complain(home: Path, *args: str, env: dict[str, str] | None = None) -> str:
    """Run a server that cannot start; its one line of complaint."""
    done = await anyio.run_process(
        [*PROGRAM, "server", "--data-dir", str(home / "data"), "--stun-address", "disable", *args],
        check=False,
        env={**environment(home), **(env or {})},
    )
    text = done.stderr.decode()
    assert done.returncode not in (0, None), text
    assert "Traceback" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("error: ")]
    return line


async def test_a_taken_port_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        line = await complain(tmp_path, "--http-address", address)
    assert f"cannot listen on {address}" in line


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["--access-url", "nonsense"], "access_url"),
        (["--http-address", "nonsense"], "http_address"),
        (["--tls-cert-file", "x"], "tls_key_file"),
        (["--derp-server-region-id", "0"], "derp_server_region_id"),
        (["--no-derp-server-enable", "--http-address", "127.0.0.1:0"], "no relay"),
    ],
)
async def test_wrong_options_are_one_line(tmp_path: Path, args: list[str], named: str) -> None:
    assert named in await complain(tmp_path, *args)


async def test_an_unwritable_database_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file, not a folder")
    assert "database" in await complain(tmp_path, "--http-address", "127.0.0.1:0")


async def test_a_certificate_that_is_none_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_text("not PEM")
    name = str(tmp_path / "x.pem")
    line = await complain(
        tmp_path, "--tls-enable", "--tls-cert-file", name, "--tls-key-file", name, "--http-address", "127.0.0.1:0"
    )
    assert "certificate" in line


async def test_an_unknown_key_of_the_configuration_is_one_line(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[plugins.server]\nacces_url = "http://x"\n')
    line = await complain(tmp_path, env={"CODER_CONFIG_PATH": str(config)})
    assert "acces_url" in line


async def test_settings_come_from_the_environment_too(tmp_path: Path) -> None:
    assert "access_url" in await complain(tmp_path, env={"CODER_ACCESS_URL": "ftp://x"})
