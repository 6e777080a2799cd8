"""The agent's SSH host key.

It is the same after every restart, so that an SSH client that remembers keys does not complain, and it proves nothing:
whoever knows the ids of workspace and agent can make it. Who the agent is has been proven by the tunnel before, whose
keys the server hands out; SSH adds no trust to that. Stock Coder derives its key in the same spirit.

Source: coder agent/agentssh (host key from owner, workspace and agent names).
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import asyncssh
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

LABEL = b"coder-agent ssh host key 1\0"


@lru_cache(maxsize=4)
def host_key(identity: str) -> asyncssh.SSHKey:
    """The Ed25519 key of an agent."""
    seed = hashlib.sha256(LABEL + identity.encode()).digest()
    key = Ed25519PrivateKey.from_private_bytes(seed)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    return asyncssh.import_private_key(pem)
