"""Where relay maps beside our own come from: a file or a URL, as `coder server` has always offered them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from coder_agent.base.derp_map import DerpMap
from coder_agent.errors import ConfigError, EgressRefused, TransportBroken
from coder_agent.hooks.interfaces import DerpMapSource, DialOptions
from coder_agent.http import request

from .derp_map_text import MAX_TEXT, parse_map
from .settings import ServerSettings

TIMEOUT = 10.0
"""Seconds for one request."""


@dataclass(slots=True)
class FileSource:
    """``--derp-config-path``. Nothing is written to the file."""

    path: Path
    refresh: float
    name: str = "derp-config-path"

    async def fetch(self) -> DerpMap:
        """Read the file. Raises ConfigError."""
        try:
            async with await anyio.open_file(self.path, "rb") as file:
                text = await file.read(MAX_TEXT + 1)
        except OSError as exc:
            raise ConfigError(f"derp_config_path: {self.path} cannot be read: {exc.strerror or exc}") from exc
        return parse_map(text, f"the relay map {self.path}")


@dataclass(slots=True)
class UrlSource:
    """``--derp-config-url``. Redirects are not followed: a map decides where everybody's packets go."""

    url: str
    refresh: float
    dial: DialOptions = field(default_factory=DialOptions)
    name: str = "derp-config-url"

    async def fetch(self) -> DerpMap:
        """Ask the URL. Raises ConfigError (what it serves is no map), TransportBroken (it cannot be had now)."""
        try:
            answer = await request("GET", self.url, timeout=TIMEOUT, options=self.dial)
        except EgressRefused as exc:  # waiting does not help: the operator wants two things that exclude each other
            raise ConfigError(f"derp_config_url: {exc.message}", hint=exc.hint) from exc
        if 300 <= answer.status < 400:
            raise ConfigError(
                f"derp_config_url: {self.url} redirects to {answer.headers.get('location', 'elsewhere')}",
                hint="set the final address: redirects are not followed",
            )
        if answer.status != 200:
            raise TransportBroken(f"derp_config_url: {self.url} answers {answer.status} instead of a relay map")
        return parse_map(answer.body, f"the relay map at {self.url}")


def configured_sources(settings: ServerSettings, dial: DialOptions) -> Sequence[DerpMapSource]:
    """The sources that the settings name: at most one of them. Raises ConfigError."""
    url, path = settings.derp_config_url, settings.derp_config_path
    if url and path:
        raise ConfigError(
            "derp_config_url and derp_config_path are both set: which map is meant?", hint="remove one of the two"
        )
    refresh = settings.derp_config_refresh_seconds
    if refresh < 0:
        raise ConfigError(f"derp_config_refresh_seconds: {refresh} is negative", hint="0 = only on SIGHUP")
    if url:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(
                f"derp_config_url: {url!r} is not an http or https URL", hint="for a file use --derp-config-path"
            )
        return [UrlSource(url, float(refresh), dial)]
    return [FileSource(Path(path).expanduser(), float(refresh))] if path else []
