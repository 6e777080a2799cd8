"""The server's own certificates while it runs: read again when the files change and on SIGHUP, and with what the relay
puts behind the first one.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio

from coder_agent.errors import ConfigError
from coder_agent.hooks.interfaces import ExtendsChain, RelayBackend

from .options import TlsOptions
from .tls import ByName, stamps

logger = logging.getLogger("coder_agent.server")

LOOK_SECONDS = 10.0
"""How often files are looked at: a renewed certificate is in use that soon."""
CHAIN_RENEWAL = 10 * 86400.0
"""Seconds: what a relay puts behind the chain (DERP's fast start) is good for 30 days."""

Load = Callable[[ssl.SSLContext, str, str], None]


@dataclass(slots=True)
class Certificates:
    """`start` once, then `run` until cancelled. `context` is in use: new connections get what was read last."""

    context: ssl.SSLContext
    files: TlsOptions
    relay: RelayBackend | None
    _more: ByName = field(init=False)

    def __post_init__(self) -> None:
        self._more = ByName(self.files)

    def start(self) -> None:
        """Load the further ones, and add to the first what the relay wants; that one is loaded already, and stays so if
        this fails. Raises ConfigError for the further ones."""
        if self.files.more:
            self._more.load()
            self.context.sni_callback = self._more.choose
        self._try(self._load(), self.context)

    def reload(self) -> None:
        """The certificate may have been renewed. A broken one leaves the old one in force."""
        load = self._load()
        fresh = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # first: a bad file must not end up in the one in use
        if self._try(load, fresh) and self._try(load, self.context):
            logger.info("the certificate %s was read again", self.files.cert_file)
        try:
            self._more.load()
        except ConfigError as exc:
            logger.error("the old certificates stay in force: %s", exc)

    async def run(self, look: float = LOOK_SECONDS) -> None:
        """Follow the files; renew in time what the relay puts behind."""
        seen = await self._stamps()
        renewed = anyio.current_time()
        while True:
            await anyio.sleep(look)
            now = await self._stamps()
            if now != seen or anyio.current_time() - renewed >= CHAIN_RENEWAL:
                seen, renewed = now, anyio.current_time()
                self.reload()

    async def _stamps(self) -> tuple[tuple[int, int], ...]:
        return await anyio.to_thread.run_sync(stamps, self.files.files)

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
