"""What the section ``[plugins.derp]`` means: every fault is found here, before anything is opened."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

from coder_agent.cli.listening import HostPort, parse_address, require_tls_files, require_tls_pair
from coder_agent.errors import ConfigError

from ..relay import DerpRelay
from ..settings import DerpSettings
from .settings import RelayProgramSettings


@dataclass(frozen=True, slots=True)
class RelayProgramOptions:
    """Checked values. `stun`/`metrics` None = not served; `verify_url` "" = nobody is asked."""

    address: HostPort
    cert_file: str
    key_file: str
    stun: HostPort | None
    stun_is_default: bool
    metrics: HostPort | None
    mesh_key: bytes | None
    mesh_with: tuple[str, ...]
    token: str
    verify_url: str
    verify_fail_open: bool
    drain: float
    relay: DerpSettings

    def tls(self, relay: DerpRelay) -> ssl.SSLContext | None:
        """A fresh TLS context, None without TLS. Raises ConfigError."""
        if not self.cert_file:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["http/1.1"])  # the upgrade does not exist in HTTP/2
        self.load(context, relay)
        return context

    def load(self, context: ssl.SSLContext, relay: DerpRelay) -> None:
        """Read the certificate into a context, also one in use: new connections get the new one, and behind it what
        lets clients of `relay` start fast."""
        try:
            relay.load_chain(context, self.cert_file, self.key_file)
        except OSError as exc:  # ssl.SSLError is one
            raise ConfigError(
                f"the certificate {self.cert_file} with the key {self.key_file} cannot be used: "
                f"{getattr(exc, 'reason', None) or exc.strerror or exc}",
                hint="both must be PEM files, and belong together",
            ) from exc


def resolve(settings: RelayProgramSettings, relay: DerpSettings) -> RelayProgramOptions:
    """Check the settings. Raises ConfigError naming the one that is wrong."""
    cert, key = settings.tls_cert_file, settings.tls_key_file
    require_tls_pair(cert, key)
    require_tls_files(cert, key)
    address = _address("address", settings.address or ("0.0.0.0:443" if cert else "127.0.0.1:3340"))
    mesh_key = relay.mesh_key()
    if settings.mesh_with and mesh_key is None:
        raise ConfigError(
            "mesh_with names other relays, but there is no mesh key",
            hint="set plugins.transport_derp.relay_mesh_key (64 hex digits, the same on every relay of the region)",
        )
    return RelayProgramOptions(
        address=address,
        cert_file=cert,
        key_file=key,
        stun=_stun(settings.stun_address, address),
        stun_is_default=not settings.stun_address,
        metrics=_address("metrics_address", settings.metrics_address) if settings.metrics_address else None,
        mesh_key=mesh_key,
        mesh_with=tuple(_mesh_url(url) for url in settings.mesh_with),
        token=settings.token.get_secret_value(),
        verify_url=_verify_url(settings),
        verify_fail_open=settings.verify_fail_open,
        drain=settings.drain_seconds,
        relay=relay,
    )


def _address(setting: str, text: str) -> HostPort:
    return parse_address(setting, text, example="0.0.0.0:443 or [::]:443", needs_colon=True)


def _stun(text: str, address: HostPort) -> HostPort | None:
    if text == "disable":
        return None
    return _address("stun_address", text) if text else HostPort(address.host, 3478)


def _verify_url(settings: RelayProgramSettings) -> str:
    if settings.verify_url and settings.coder_url:
        raise ConfigError(
            "verify_url and coder_url are both set: who decides about clients?", hint="remove one of them"
        )
    url = settings.verify_url or (settings.coder_url and settings.coder_url.rstrip("/") + "/api/v2/derp/verify")
    if url and urlsplit(url).scheme not in ("http", "https"):
        raise ConfigError(f"{url!r} is not an http or https URL", hint="for example https://coder.example.com")
    return url


def _mesh_url(text: str) -> str:
    """A relay's host name (stock's form) or URL."""
    url = text if "://" in text else f"https://{text}/derp"
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise ConfigError(f"mesh_with: {text!r} is neither a host name nor a URL")
    return url
