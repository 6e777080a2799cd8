"""Settings become options, or one sentence that says what to do."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from coder_agent_server.derp_map import build_derp_map
from coder_agent_server.derp_map_keeper import combine
from coder_agent_server.options import (
    AccessUrl,
    HostPort,
    ServerOptions,
    is_only_local,
    parse_access_url,
    parse_address,
    resolve_options,
)
from coder_agent_server.settings import ServerSettings

from coder_agent.errors import ConfigError


def options(**settings: Any) -> ServerOptions:
    return resolve_options(ServerSettings(**settings), lambda: Path("/nowhere"))


def test_defaults_are_modest() -> None:
    found = options()
    assert found.http_address == HostPort("127.0.0.1", 3000)
    assert found.access_url is None
    assert found.tls is None
    assert found.relay.enable
    assert found.relay.stun_addresses == ()  # nothing outside is asked unless somebody says so
    assert (found.stun_address, found.stun_address_is_default) == (HostPort("127.0.0.1", 3478), True)
    assert found.database_path == Path("/nowhere/coder.db")


@pytest.mark.parametrize(
    ("text", "url", "shown"),
    [
        ("https://coder.example.com", AccessUrl("https", "coder.example.com", 443), "https://coder.example.com"),
        ("https://coder.example.com:443/", AccessUrl("https", "coder.example.com", 443), "https://coder.example.com"),
        ("http://10.0.0.5:3000", AccessUrl("http", "10.0.0.5", 3000), "http://10.0.0.5:3000"),
        ("http://[fd00::1]:3000", AccessUrl("http", "fd00::1", 3000), "http://[fd00::1]:3000"),
        ("http://x", AccessUrl("http", "x", 80), "http://x"),
    ],
)
def test_access_urls(text: str, url: AccessUrl, shown: str) -> None:
    assert parse_access_url(text) == url
    assert url.text == shown


@pytest.mark.parametrize(
    "text", ["x", "ftp://x", "http://", "https://x/path", "http://x?q", "http://x:99999", "http://[::1", "http://a:b@x"]
)
def test_bad_access_urls_are_named(text: str) -> None:
    with pytest.raises(ConfigError, match="access_url") as error:
        parse_access_url(text)
    assert error.value.hint


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:3000", HostPort("127.0.0.1", 3000)),
        (":3000", HostPort("0.0.0.0", 3000)),
        ("[::]:0", HostPort("::", 0)),
        ("localhost:80", HostPort("localhost", 80)),
    ],
)
def test_addresses(text: str, address: HostPort) -> None:
    assert parse_address("http_address", text) == address


@pytest.mark.parametrize("text", ["", "x", "x:", "x:y", "x:65536", "x:-1", "::1:80", "1.2.3.4:²"])
def test_bad_addresses_are_named(text: str) -> None:
    with pytest.raises(ConfigError, match="http_address"):
        parse_address("http_address", text)


@pytest.mark.parametrize(
    ("text", "address"),
    [("stun.example.org", ("stun.example.org", 3478)), ("a:19302", ("a", 19302)), ("[::1]:5", ("::1", 5))],
)
def test_stun_servers_have_a_default_port(text: str, address: tuple[str, int]) -> None:
    assert options(derp_server_stun_addresses=[f"{text},b:1"]).relay.stun_addresses == (address, ("b", 1))
    assert options(derp_server_stun_addresses=["disable"]).relay.stun_addresses == ()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"http_address": ""}, "nothing to listen on"),
        ({"tls_cert_file": "x"}, "tls_key_file is not"),
        ({"tls_key_file": "x"}, "tls_cert_file is not"),
        ({"tls_enable": True}, "no certificate"),
        ({"tls_enable": True, "tls_cert_file": "/nosuch", "tls_key_file": "/nosuch"}, "tls_cert_file: there is no"),
        ({"derp_server_region_id": 0}, "derp_server_region_id"),
        ({"stun_address": "x:y"}, "stun_address"),
    ],
)
def test_faults_are_found_before_anything_is_opened(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        options(**settings)


def test_blocking_direct_connections_means_no_stun_at_all() -> None:
    found = options(block_direct_connections=True, derp_server_stun_addresses=["stun.example.org"])
    assert found.stun_address is None
    derp_map = build_derp_map(found, AccessUrl("http", "x", 80), None)
    assert list(derp_map.regions) == [999]
    assert derp_map.regions[999].nodes[0].stun_port == -1


def test_stun_servers_become_regions_of_their_own() -> None:
    found = options(derp_server_stun_addresses=["a", "b:5"])
    derp_map = build_derp_map(found, AccessUrl("https", "coder.example.com", 443), 3478)
    assert list(derp_map.regions) == [999, 1000, 1001]
    own, second = derp_map.regions[999].nodes[0], derp_map.regions[1001].nodes[0]
    assert (own.host_name, own.derp_port, own.force_http, own.stun_port) == ("coder.example.com", 443, False, 3478)
    assert (second.name, second.host_name, second.stun_port, second.stun_only) == ("1001stun0", "b", 5, True)
    assert derp_map.regions[1000].region_code == "coder_stun_1000"


def test_a_map_that_cannot_work_is_refused() -> None:
    url = AccessUrl("http", "x", 80)
    with pytest.raises(ConfigError, match="no relay"):
        combine(build_derp_map(options(derp_server_enable=False, derp_server_stun_addresses=["a"]), url, None), {})
    with pytest.raises(ConfigError, match="twice"):
        build_derp_map(options(derp_server_region_id=1000, derp_server_stun_addresses=["a"]), url, None)


def test_loopback_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        table = {"local": ["127.0.0.1", "::1"], "mixed": ["127.0.0.1", "10.0.0.1"]}
        if host not in table:
            raise socket.gaierror("no such name")
        return [(0, 0, 0, "", (address, 0)) for address in table[host]]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert is_only_local(AccessUrl("http", "local", 80))
    assert not is_only_local(AccessUrl("http", "mixed", 80))
    assert not is_only_local(AccessUrl("http", "unknown", 80))
