"""The server's own certificate while it runs: read again on SIGHUP, and with what the relay puts behind it."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass

import anyio

from coder_agent.hooks.interfaces import ExtendsChain, RelayBackend

from .options import TlsOptions

logger = logging.getLogger("coder_agent.server")

CHAIN_RENEWAL = 10 * 86400.0
"""Seconds: what a relay puts behind the chain (DERP's fast start) is good for 30 days."""

Load = Callable[[ssl.SSLContext, str, str], None]


@dataclass(slots=True)
class Certificates:
    """`start` once, then `run` until cancelled. `context` is in use: new connections get what was read last."""

    context: ssl.SSLContext
    files: TlsOptions
    relay: RelayBackend | None

    def start(self) -> None:
        """Add what the relay wants; the files themselves are loaded already, and stay so if that fails."""
        self._try(self._load(), self.context)

    def reload(self) -> None:
        """The certificate may have been renewed. A broken one leaves the old one in force."""
        load = self._load()
        fresh = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # first: a bad file must not end up in the one in use
        if self._try(load, fresh) and self._try(load, self.context):
            logger.info("the certificate %s was read again", self.files.cert_file)

    async def run(self) -> None:
        """Renew in time."""
        while True:
            await anyio.sleep(CHAIN_RENEWAL)
            self.reload()

    def _load(self) -> Load:
        relay: object = self.relay
        return relay.load_chain if isinstance(relay, ExtendsChain) else ssl.SSLContext.load_cert_chain

    def _try(self, load: Load, context: ssl.SSLContext) -> bool:
        try:
            load(context, str(self.files.cert_file), str(self.files.key_file))
        except OSError as exc:  # ssl.SSLError is one
            reason = getattr(exc, "reason", None) or exc.strerror or exc
            logger.error("the old certificate stays in force: %s: %s", self.files.cert_file, reason)
            return False
        return True
