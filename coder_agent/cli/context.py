"""What every command is handed: ``cli: Cli = ctx.obj``. Everything in it is made when it is first asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from ..errors import ConfigError
from ..hooks.manager import PluginHost, build_plugin_manager
from ..hooks.sources import ConfigFile, read_config_file, read_selection
from .redact import hide
from .session import SessionFiles

if TYPE_CHECKING:
    from ..hooks.interfaces import DialOptions
    from ..hooks.settings import Settings

Program = Literal["coder", "coder-agent"]


@dataclass
class Cli:
    """One run of `coder` or `coder-agent`: its flags, plugins, settings and credentials."""

    program: Program
    flags: dict[str, object] = field(default_factory=dict, repr=False)
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)

    def override(self, name: str, value: object) -> None:
        """A global flag given behind the command's name."""
        self.flags[name] = value
        self.__dict__.pop("settings", None)

    def ignore_configuration(self) -> None:
        """Go on without file and plugins: `--help` must come even when both are broken."""
        self.flags["no_plugins"] = True
        self.__dict__["file"] = ConfigFile()

    @property
    def verbose(self) -> bool:
        """``-v``."""
        return bool(self.flags.get("verbose") or self.environ.get("CODER_VERBOSE", "") not in ("", "0", "false"))

    @cached_property
    def file(self) -> ConfigFile:
        """The configuration file. Raises ConfigError."""
        return read_config_file(self._text("config"), self.environ)

    @cached_property
    def host(self) -> PluginHost:
        """The plugins. Raises ConfigError for a name that no plugin has, PluginError for one that is required."""
        disable, only = self._names("disable_plugin"), self._names("only_plugin")
        selection = read_selection(
            self.file, self.environ, disable=disable, only=only, no_plugins=bool(self.flags.get("no_plugins"))
        )
        host = build_plugin_manager(
            discover=selection.discover,
            disable=selection.disable,
            only=selection.only,
            require=selection.require,
            builtin=[("core", "coder_agent.cli.builtin")],
        )
        for name in [*disable, *only]:
            if selection.discover and host.record(name) is None:
                raise ConfigError(f"no plugin is called {name!r}", hint="`coder plugins list` shows them")
        return host

    @cached_property
    def settings(self) -> Settings:
        """The effective configuration. Raises ConfigError."""
        from ..hooks.settings import load_settings

        return load_settings(self.host, file=self.file, environ=self.environ, flags=self._setting_flags())

    @property
    def session(self) -> SessionFiles:
        """The login session on disk."""
        use_keyring = self.settings.client.use_keyring
        return SessionFiles.locate(self._text("global_config"), self.environ, use_keyring=use_keyring)

    def url(self) -> str:
        """The coder server's URL, without a trailing slash. Raises ConfigError, saying how to give one."""
        if self.program == "coder-agent":
            url, hint = self.settings.agent.url, "give --url or set CODER_AGENT_URL"
        else:
            url, hint = self.settings.client.url or self.session.url, "run `coder login <url of your server>`"
        if not url:
            raise ConfigError("no coder server is known", hint=hint)
        return self.trusted(url)

    def trusted(self, url: str) -> str:
        """A server's URL that the user gave, checked; from now on the egress policy lets us talk to it."""
        checked = checked_url(url)
        self.settings.egress.trust(checked)
        return checked

    def token(self) -> str:
        """The session or agent token. Raises ConfigError, saying how to give one."""
        if self.program == "coder-agent":
            token, hint = self._agent_token(), "give --token or set CODER_AGENT_TOKEN or CODER_AGENT_TOKEN_FILE"
        else:
            token = self.settings.client.token.get_secret_value() or self.session.token
            hint = "run `coder login`, or set CODER_SESSION_TOKEN"
        if not token:
            raise ConfigError("you are not logged in" if self.program == "coder" else "no agent token", hint=hint)
        hide(token)
        return token

    def dial_options(self) -> DialOptions:
        """How connections are to be made, from ``[network]``."""
        options = self.settings.network.dial_options()
        if options.header_command:
            options.server_url = self.settings.client.url or self.settings.agent.url or self.session.url
        return options

    # ------------------------------------------------------------

    def _agent_token(self) -> str:
        agent = self.settings.agent
        if agent.token.get_secret_value() or not agent.token_file:
            return agent.token.get_secret_value().strip()
        try:
            return Path(agent.token_file).expanduser().read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise ConfigError(f"cannot read the agent token in {agent.token_file}: {reason}") from error

    def _setting_flags(self) -> dict[str, dict[str, object]]:
        """Global flags as settings: `--url` is the client's or the agent's, whichever program this is."""
        own = {name: self.flags[name] for name in ("url", "token") if self.flags.get(name)}
        client: dict[str, object] = {}
        if self.flags.get("disable_direct_connections"):
            client["disable_direct_connections"] = True
        if self.flags.get("use_keyring") is not None:
            client["use_keyring"] = self.flags["use_keyring"]
        network: dict[str, object] = {}
        if self.flags.get("direct_only"):
            network["direct_only"] = True
        if self.flags.get("prefer_region") is not None:
            network["prefer_region"] = self.flags["prefer_region"]
        if self.flags.get("no_ipv6"):
            network["ipv6"] = False
        for name in ("header_command", "ca_file", "client_cert_file", "client_key_file", "proxy"):
            if self.flags.get(name) is not None:
                network[name] = self.flags[name]
        if headers := self.flags.get("header"):
            assert isinstance(headers, (list, tuple))
            network["header"] = dict(_header(str(text)) for text in headers)
        if self.program == "coder":
            return {"client": {**own, **client}, "network": network}
        return {"agent": own, "client": client, "network": network}

    def _text(self, name: str) -> str | None:
        value = self.flags.get(name)
        return str(value) if value else None

    def _names(self, name: str) -> list[str]:
        """A flag that may be repeated and may hold a comma-separated list."""
        values = self.flags.get(name) or ()
        assert isinstance(values, (list, tuple))
        return [part.strip() for value in values for part in str(value).split(",") if part.strip()]


def _header(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name.strip():
        raise ConfigError("--header takes NAME=VALUE")
    return name.strip(), value.strip()


def checked_url(url: str) -> str:
    """`url` without trailing slashes; ``https://`` is assumed. Raises ConfigError if it cannot be a server's."""
    text = url.strip()
    text = (text if "://" in text else f"https://{text}").rstrip("/")
    try:
        parts = urlsplit(text)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and " " not in text
    except ValueError:
        valid = False
    if not valid:
        raise ConfigError(f"{url!r} is not the URL of a server", hint="it looks like https://coder.example.com")
    return text
