"""The section ``[plugins.transport_derp]``."""

from __future__ import annotations

import json
import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from coder_agent.base.keys import NodePrivate
from coder_agent.errors import ConfigError


class DerpSettings(BaseModel):
    """Limits and identity of the embedded relay. The client side needs no settings of its own."""

    model_config = ConfigDict(extra="forbid")

    relay_key_file: Path | None = Field(
        None,
        description='File with the relay\'s key, {"PrivateKey": "privkey:…"} as a stock derper has it; made if '
        "missing. Without it every start has a new key, which clients do not mind.",
    )
    relay_max_clients: int = Field(10_000, ge=1, description="Connections beyond this are closed at once.")
    relay_client_rate: int = Field(
        0, ge=0, description="Bytes per second that one client may send; it is read more slowly. 0 = no limit."
    )
    relay_client_burst: int = Field(0, ge=0, description="Bytes that one client may send at once above that rate.")
    relay_mesh_key: SecretStr | None = Field(
        None, description="64 hex digits shared by the relays of a region; who shows it may watch and forward."
    )

    def mesh_key(self) -> bytes | None:
        """The mesh key as 32 bytes. Raises ConfigError."""
        if self.relay_mesh_key is None:
            return None
        text = self.relay_mesh_key.get_secret_value().strip()
        try:
            key = bytes.fromhex(text)
        except ValueError:
            key = b""
        if len(key) != 32:
            raise ConfigError("plugins.transport_derp.relay_mesh_key must be 64 hex digits")
        return key


def relay_key(path: Path | None) -> NodePrivate:
    """The relay's key from `path`, made there (mode 0600) if the file does not exist. Raises ConfigError."""
    if path is None:
        return NodePrivate.generate(os.urandom)
    try:
        document = json.loads(path.read_text())
        return NodePrivate.parse(document["PrivateKey"])
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise ConfigError(
            f"the relay key file {path} cannot be used: {type(exc).__name__}",
            hint="remove it to have a new one made, or point plugins.transport_derp.relay_key_file elsewhere",
        ) from exc
    key = NodePrivate.generate(os.urandom)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump({"PrivateKey": key.reveal()}, file)
    except OSError as exc:
        raise ConfigError(f"the relay key file {path} cannot be written: {exc.strerror}") from exc
    return key
