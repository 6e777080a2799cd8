"""The real server and real control links: an agent and a user's client find each other, and outlive a restart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from uuid import UUID, uuid4

import anyio
import anyio.abc
import pytest
from coder_agent_server.testing import Server, first_user, run_server

from coder_agent.base.coordinate import UpdateKind
from coder_agent.base.derp_map import DerpMap
from coder_agent.base.node import Node
from coder_agent.errors import ApiError, Unauthenticated
from coder_agent.runtime.agent_link import Manifest
from coder_agent.runtime.control_link import AgentMode, ClientMode, ControlLink
from coder_agent.testing.contracts.coordinator import make_node

pytestmark = pytest.mark.anyio

USER = uuid4()


class Sink:
    """Writes down what a control link tells."""

    def __init__(self) -> None:
        self.updates: list[tuple[UUID, UpdateKind, Node | None]] = []
        self.maps: list[DerpMap] = []
        self.manifests: list[Manifest] = []
        self.up = 0
        self.lost: list[str] = []
        self._changed = anyio.Event()

    def _note(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    def on_derp_map(self, derp_map: DerpMap) -> None:
        self.maps.append(derp_map)
        self._note()

    def on_peer_update(self, peer: UUID, kind: UpdateKind, node: Node | None, reason: str) -> None:
        self.updates.append((peer, kind, node))
        self._note()

    def on_linked(self) -> None:
        self.up += 1
        self._note()

    def on_link_lost(self, reason: str) -> None:
        self.lost.append(reason)
        self._note()

    def on_manifest(self, manifest: Manifest) -> None:
        self.manifests.append(manifest)
        self._note()

    def kinds(self) -> list[UpdateKind]:
        return [kind for _, kind, _ in self.updates]

    async def until(self, condition: Callable[[], bool], timeout: float = 60) -> None:
        with anyio.fail_after(timeout):
            while not condition():
                await self._changed.wait()


class Restartable:
    """A server that runs in a task of its own, so that it can end while others go on."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._stop = anyio.Event()
        self._stopped = anyio.Event()
        self._address = "127.0.0.1:0"

    async def run(self, *, task_status: anyio.abc.TaskStatus[Server]) -> None:
        self._stop, self._stopped = anyio.Event(), anyio.Event()
        async with run_server(self._data_dir, http_address=self._address) as server:
            self._address = f"127.0.0.1:{server.address[1]}"
            task_status.started(server)
            await self._stop.wait()
        self._stopped.set()

    async def stop(self) -> None:
        self._stop.set()
        await self._stopped.wait()


async def test_agent_and_client_find_each_other_and_outlive_a_restart(tmp_path: Path) -> None:
    agent_sink, client_sink = Sink(), Sink()
    server_task = Restartable(tmp_path)
    async with anyio.create_task_group() as tasks:
        server: Server = await tasks.start(server_task.run)
        async with first_user(server.url) as api:
            document = (await api.post("/api/v2/users/me/workspaces", json={"name": "dev"})).json()
        agent_id = UUID(document["agent_tokens"][0]["agent_id"])
        agent = ControlLink(server.url, document["agent_token"], mode=AgentMode("v0"), sink=agent_sink)
        client = ControlLink(server.url, api.token, mode=ClientMode(agent_id), sink=client_sink)
        agent.update_self(make_node(agent_id))
        client.update_self(make_node(USER))
        client.add_tunnel(agent_id)
        tasks.start_soon(agent.run)
        tasks.start_soon(client.run)
        await agent_sink.until(lambda: UpdateKind.NODE in agent_sink.kinds())
        await client_sink.until(lambda: UpdateKind.NODE in client_sink.kinds())
        peer = agent_sink.updates[0][0]
        agent.ready_for_handshake(peer)
        await client_sink.until(lambda: UpdateKind.READY_FOR_HANDSHAKE in client_sink.kinds())
        assert [m.agent_id for m in agent_sink.manifests] == [agent_id]
        assert list(client_sink.maps[0].regions) == list(agent_sink.maps[0].regions) == [999]

        await server_task.stop()
        await agent_sink.until(lambda: bool(agent_sink.lost))
        await client_sink.until(lambda: bool(client_sink.lost))
        agent_sink.updates.clear()
        client_sink.updates.clear()
        await tasks.start(server_task.run)
        await agent_sink.until(lambda: UpdateKind.NODE in agent_sink.kinds())
        await client_sink.until(lambda: UpdateKind.NODE in client_sink.kinds())
        assert agent_sink.updates[0][0] == peer  # the resume token kept the client's id
        await client.aclose_gracefully()
        await agent_sink.until(lambda: agent_sink.kinds()[-1] is UpdateKind.DISCONNECTED)
        await agent.aclose_gracefully()
        await server_task.stop()
    assert min(agent_sink.up, client_sink.up) >= 2  # once more if the old server took a last connection


async def test_wrong_credentials_and_unknown_agents_are_told_at_once(tmp_path: Path) -> None:
    async with run_server(tmp_path) as server, first_user(server.url) as api:
        with pytest.raises(ApiError) as unknown:
            await _run(server, api.token, ClientMode(uuid4()))
        assert unknown.value.status == 404
        with pytest.raises(Unauthenticated):
            await _run(server, "wrong", ClientMode(uuid4()))
        with pytest.raises(Unauthenticated):
            await _run(server, str(uuid4()), AgentMode())


async def _run(server: Server, token: str, mode: AgentMode | ClientMode) -> None:
    with anyio.fail_after(30):
        await ControlLink(server.url, token, mode=mode, sink=Sink()).run()
