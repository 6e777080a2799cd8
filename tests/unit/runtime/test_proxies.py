"""Which proxy is taken, what NO_PROXY excepts, and what is said when a proxy refuses. Loopback only."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.abc
import pytest

from coder_agent.errors import ConfigError, TransportBroken
from coder_agent.runtime.proxies import ProxyAddress, is_excepted, is_loopback, proxy_url, through

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def chosen(
    host: str = "relay.example", port: int = 443, *, secure: bool = True, configured: str | None = None
) -> object:
    return proxy_url(host, port, secure=secure, configured=configured)


def test_the_environment_is_asked_per_kind_of_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen() is None
    monkeypatch.setenv("https_proxy", "proxy.example:3128")
    assert chosen() == "http://proxy.example:3128"
    assert chosen(secure=False) is None
    monkeypatch.setenv("ALL_PROXY", "socks5://all.example")
    assert chosen(secure=False) == "socks5://all.example"


@pytest.mark.parametrize("host", ["localhost", "x.localhost", "127.0.0.9", "::1"])
def test_only_a_configured_proxy_is_meant_for_this_machine_itself(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    assert is_loopback(host)
    assert chosen(host) is None
    assert chosen(host, configured="socks5://mine:1") == "socks5://mine:1"


@pytest.mark.parametrize("setting", ["none", "None", "direct", ""])
def test_a_setting_can_switch_the_environment_off(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    assert chosen(configured=setting) is None


@pytest.mark.parametrize(
    ("no_proxy", "host", "port", "excepted"),
    [
        ("*", "relay.example", 443, True),
        ("relay.example", "relay.example", 443, True),
        ("RELAY.example", "relay.Example.", 443, True),
        ("example", "relay.example", 443, True),
        ("ample", "relay.example", 443, False),
        (".example", "relay.example", 443, True),
        ("*.example", "relay.example", 443, True),
        (".relay.example", "relay.example", 443, False),
        ("relay.example:443", "relay.example", 443, True),
        ("relay.example:443", "relay.example", 8443, False),
        ("other.example, relay.example", "relay.example", 443, True),
        ("10.0.0.0/8", "10.200.3.4", 443, True),
        ("10.0.0.0/8", "11.0.0.1", 443, False),
        ("10.0.0.0/8", "relay.example", 443, False),
        ("fd00::/8", "fd12::1", 443, True),
        ("192.0.2.7", "192.0.2.7", 443, True),
        ("192.0.2.7:80", "192.0.2.7", 443, False),
        ("2001:db8::1", "2001:db8:0::1", 443, True),
        ("[2001:db8::1]:443", "2001:db8::1", 443, True),
        ("[2001:db8::1]:80", "2001:db8::1", 443, False),
        ("not/a/network", "relay.example", 443, False),
        ("", "relay.example", 443, False),
    ],
)
def test_exceptions_are_read_as_go_reads_them(no_proxy: str, host: str, port: int, excepted: bool) -> None:
    assert is_excepted(host, port, no_proxy) is excepted


def test_exceptions_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "10.0.0.0/8,relay.example:444")
    assert chosen("10.1.1.1") is None
    assert chosen(port=444) is None
    assert chosen() is not None


def test_a_proxy_s_url_is_read_with_its_default_port_and_escapes() -> None:
    proxy = ProxyAddress.parse("http://bob:p%40ss%3A@proxy.example")
    assert (proxy.kind, proxy.host, proxy.port) == ("http", "proxy.example", 80)
    assert (proxy.username, proxy.password) == ("bob", "p@ss:")
    assert ProxyAddress.parse("socks5h://[2001:db8::1]").port == 1080
    assert ProxyAddress.parse("http://only-a-user@p:3128").username == "only-a-user"


def test_a_password_is_in_no_text_about_a_proxy() -> None:
    proxy = ProxyAddress.parse("http://bob:hunter2@proxy.example:3128")
    assert "hunter2" not in f"{proxy} {proxy!r}"


@pytest.mark.parametrize(
    "url", ["gopher://bob:hunter2@x:1", "https://bob:hunter2@x", "http://bob:hunter2@", "http://bob:hunter2@x:99999"]
)
def test_a_url_of_no_proxy_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ProxyAddress.parse(url)
    assert "is not usable" in caught.value.message
    assert "hunter2" not in f"{caught.value.message} {caught.value.hint}"


@asynccontextmanager
async def proxy_that_says(answer: bytes) -> AsyncIterator[int]:
    async def handle(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(answer)
            await anyio.sleep_forever()

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handle)
        yield listener.extra(anyio.abc.SocketAttribute.local_port)
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("scheme", "answer", "hint"),
    [
        ("http", b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "user name"),
        ("http", b"HTTP/1.1 403 Forbidden\r\n\r\n", "rules forbid"),
        ("http", b"HTTP/1.1 502 Bad Gateway\r\n\r\n", ""),
        ("socks5", b"\x05\xff", ""),
        ("socks5", b"garbage", ""),
    ],
)
async def test_a_refusal_names_the_proxy_and_what_to_do(scheme: str, answer: bytes, hint: str) -> None:
    async with proxy_that_says(answer) as port:
        with anyio.fail_after(30), pytest.raises(TransportBroken) as caught:
            await through(f"{scheme}://bob:hunter2@127.0.0.1:{port}", "relay.example", 443)
    assert f"the proxy 127.0.0.1:{port} does not connect to relay.example:443" in caught.value.message
    assert hint in (caught.value.hint or "")
    assert "hunter2" not in f"{caught.value.message} {caught.value.hint}"


async def test_a_proxy_that_is_away_is_named() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(TransportBroken, match=rf"the proxy 127\.0\.0\.1:{port} cannot be reached"):
        await through(f"http://127.0.0.1:{port}", "relay.example", 443)
