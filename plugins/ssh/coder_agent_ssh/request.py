"""What the agent tells its SSH worker about a connection: a line of JSON before the SSH stream itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coder_agent.hooks import AgentFacts

    from .settings import SshSettings

MAX_BYTES = 16 << 20
"""A manifest's environment is the largest part; a server's message is at most 4 MiB."""


@dataclass(frozen=True, slots=True)
class Request:
    """Where, for whom and how a connection is served. Addresses are those inside the tunnel."""

    local: tuple[str, int]
    peer: tuple[str, int]
    identity: str = ""
    workspace: str = ""
    agent: str = ""
    owner: str = ""
    url: str = ""
    directory: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    shell: str = ""
    motd_file: str = ""
    forwarding: bool = True
    block_file_transfer: bool = False
    client_timeout: float = 0.0

    @classmethod
    def of(cls, facts: AgentFacts, settings: SshSettings, local: tuple[str, int], peer: tuple[str, int]) -> Request:
        """From what the agent knows."""
        return cls(
            local=local,
            peer=peer,
            identity=f"{facts.workspace_id}/{facts.agent_id}",
            workspace=facts.workspace_name,
            agent=facts.agent_name,
            owner=facts.owner_username,
            url=facts.url,
            directory=facts.directory,
            environment=dict(facts.environment),
            shell=settings.shell,
            motd_file=settings.motd_file,
            forwarding=settings.forwarding,
            block_file_transfer=settings.block_file_transfer,
            client_timeout=settings.client_timeout,
        )

    def encode(self) -> bytes:
        """As it goes to the worker."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, data: bytes) -> Request:
        """In the worker. Raises ValueError, KeyError or TypeError for what is none."""
        fields: dict[str, Any] = json.loads(data)
        local, peer = fields.pop("local"), fields.pop("peer")
        return cls(local=(str(local[0]), int(local[1])), peer=(str(peer[0]), int(peer[1])), **fields)
