"""A WebSocket request whose head is too large gets an answer, not silence."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from coder_agent_server.testing import run_server

pytestmark = pytest.mark.anyio
UPGRADE = (
    "Host: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)


async def test_every_handshake_is_answered(tmp_path: Path) -> None:
    async with run_server(tmp_path) as server:
        for target, more, status in [
            ("/api/v2/nowhere", "", 404),
            (f"/api/v2/nowhere?{'a' * 9000}", "", 431),
            (f"/api/v2/nowhere?{'a' * 50_000}", "", 431),
            ("/api/v2/nowhere", "".join(f"X-{number}: y\r\n" for number in range(200)), 431),
        ]:
            async with await anyio.connect_tcp(*server.address) as stream:
                await stream.send(f"GET {target} HTTP/1.1\r\n{UPGRADE}{more}\r\n".encode())
                with anyio.fail_after(60):
                    assert (await stream.receive()).startswith(f"HTTP/1.1 {status} ".encode())
