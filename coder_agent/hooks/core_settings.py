"""The core's own sections of the configuration: ``[client]``, ``[agent]``, ``[network]``.

Names of keys, flags and environment variables follow Coder's own programs, so that a stock set-up works unchanged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, Field, PrivateAttr, SecretStr

if TYPE_CHECKING:
    from collections.abc import Callable

    from .egress import Egress
    from .interfaces import DialOptions


class ClientSettings(BaseModel):
    """What `coder` uses as a user's client."""

    url: str = Field("", description="URL of the coder server", json_schema_extra={"env": "CODER_URL"})
    token: SecretStr = Field(
        SecretStr(""), description="session token", json_schema_extra={"env": "CODER_SESSION_TOKEN"}
    )
    disable_direct_connections: bool = Field(
        False,
        description="never go direct, always relayed",
        json_schema_extra={"env": "CODER_DISABLE_DIRECT_CONNECTIONS"},
    )
    use_keyring: bool | None = Field(
        None,
        description="keep the session token in the system's keyring, not in a file; unset = as at the last login",
        json_schema_extra={"env": "CODER_USE_KEYRING"},
    )


class AppSettings(BaseModel):
    """One ``[[agent.apps]]``: an app of the workspace, as `coder app add` would declare it (hooks/web.py WebApp)."""

    slug: str
    url: str = ""
    display_name: str = ""
    icon: str = ""
    command: str = ""
    external: bool = False
    subdomain: bool = False
    sharing_level: Literal["owner", "organization", "authenticated", "public"] = "owner"
    healthcheck_url: str = ""
    healthcheck_interval: int = Field(5, ge=1)
    healthcheck_threshold: int = Field(6, ge=1)
    hidden: bool = False
    order: int = 0
    open_in: Literal["slim-window", "tab"] = "slim-window"
    cors_behavior: Literal["simple", "passthru"] = "simple"
    trusted: bool = False


class AgentSettings(BaseModel):
    """What `coder-agent run` uses in a workspace."""

    url: str = Field("", description="URL of the coder server", json_schema_extra={"env": "CODER_AGENT_URL"})
    token: SecretStr = Field(SecretStr(""), description="agent token", json_schema_extra={"env": "CODER_AGENT_TOKEN"})
    token_file: str = Field(
        "", description="file that holds the agent token", json_schema_extra={"env": "CODER_AGENT_TOKEN_FILE"}
    )
    forward_ports: str = Field(
        "all",
        description="ports of this machine's loopback that users may reach: all, none, or a list like 80,8000-8999",
        json_schema_extra={"env": "CODER_AGENT_FORWARD_PORTS"},
    )
    apps: list[AppSettings] = Field(default_factory=list, description="web apps of this workspace, for its users")


class NetworkSettings(BaseModel):
    """How both of them reach the network."""

    listen_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="UDP port for direct connections; 0 = any",
        json_schema_extra={"env": "CODER_AGENT_TAILNET_LISTEN_PORT"},
    )
    birthday: bool = Field(
        True,
        description="guess ports to get through NATs that give each destination another one, ours or a peer's",
        json_schema_extra={"env": "CODER_BIRTHDAY"},
    )
    large_packets: bool = Field(
        True,
        description="send packets above 1280 bytes to nodes like this one where a direct path is proven to take them",
        json_schema_extra={"env": "CODER_LARGE_PACKETS"},
    )
    force_websockets: bool = Field(
        False, description="reach relays by WebSocket only", json_schema_extra={"env": "CODER_DERP_FORCE_WEBSOCKETS"}
    )
    direct_only: bool = Field(
        False,
        description="never use a relay for data: wait for a direct path, or fail",
        json_schema_extra={"env": "CODER_DIRECT_ONLY"},
    )
    prefer_region: int = Field(
        0,
        ge=0,
        le=65535,
        description="relay region to use where both ends can; 0 = the nearest",
        json_schema_extra={"env": "CODER_PREFER_REGION"},
    )
    ipv6: bool = Field(
        True, description="use IPv6 for direct connections", json_schema_extra={"env": "CODER_DIRECT_IPV6"}
    )
    header: dict[str, str] = Field(
        default_factory=dict, description="extra HTTP headers", json_schema_extra={"env": "CODER_HEADER"}
    )
    header_command: str = Field(
        "",
        description="program that prints further headers, one NAME=VALUE a line",
        json_schema_extra={"env": "CODER_HEADER_COMMAND"},
    )
    ca_file: str = Field(
        "",
        description="PEM file with further CA certificates",
        json_schema_extra={"env": "CODER_CLIENT_TLS_CA_FILE"},
    )
    client_cert_file: str = Field(
        "",
        description="PEM file with the certificate for servers that ask for one",
        json_schema_extra={"env": "CODER_CLIENT_TLS_CERT_FILE"},
    )
    client_key_file: str = Field(
        "",
        description="PEM file with its key, if that is not in the same file",
        json_schema_extra={"env": "CODER_CLIENT_TLS_KEY_FILE"},
    )
    insecure: bool = Field(False, description="do not verify TLS certificates")
    vector: bool = Field(True, description="use numpy on the data path where it is installed")
    proxy: str = Field(
        "",
        description="http:// or socks5:// proxy; none = no proxy; empty = as the environment says",
        json_schema_extra={"env": "CODER_PROXY"},
    )

    _egress: Callable[[], Egress] | None = PrivateAttr(None)

    def bind_egress(self, egress: Callable[[], Egress]) -> None:
        """Where `dial_options` finds the policy of this program (Settings does this: no caller can forget it)."""
        self._egress = egress

    def dial_options(self) -> DialOptions:
        """How outgoing connections are to be made. Raises PluginError if the egress policy cannot be had."""
        from .egress import OPEN
        from .interfaces import DialOptions

        return DialOptions(
            egress=self._egress() if self._egress is not None else OPEN,
            headers=dict(self.header),
            ca_file=self.ca_file or None,
            insecure=self.insecure,
            proxy=self.proxy or None,
            header_command=self.header_command,
            client_cert_file=self.client_cert_file or None,
            client_key_file=self.client_key_file or None,
        )


CORE_SECTIONS: dict[str, type[BaseModel]] = {
    "client": ClientSettings,
    "agent": AgentSettings,
    "network": NetworkSettings,
}
"""Top-level tables of the configuration file that belong to the core."""
