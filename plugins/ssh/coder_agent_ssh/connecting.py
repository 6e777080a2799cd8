"""The client's side of an SSH connection inside the tunnel."""

from __future__ import annotations

import asyncssh

from coder_agent.errors import TransportBroken

from .joining import NamedSocket

CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com", "aes128-ctr")
"""The fastest first: WireGuard has encrypted everything already."""
LOGIN_TIMEOUT = 30
"""Seconds for the greeting of a peer that is no SSH server, or too busy."""


async def connected(sock: NamedSocket, label: str, *, agent_path: str = "") -> asyncssh.SSHClientConnection:
    """Shake hands with the workspace's SSH server over `sock`. Raises TransportBroken."""
    try:
        return await asyncssh.connect(
            label,
            sock=sock,
            known_hosts=None,  # the tunnel has proven who the agent is
            client_keys=None,
            username="coder",
            config=None,
            agent_path=agent_path or None,
            agent_forwarding=bool(agent_path),
            encryption_algs=CIPHERS,
            compression_algs=["none"],
            gss_host=None,
            login_timeout=LOGIN_TIMEOUT,
        )
    except (OSError, asyncssh.Error) as exc:
        raise TransportBroken(
            f"workspace {label}: no SSH session: {exc}", hint="its agent may be without the plugin `ssh`: see its log"
        ) from exc
