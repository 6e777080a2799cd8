"""Where a server listens: several certificates by host name, unix sockets, sockets of systemd; and who is behind a
reverse proxy."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from coder_agent_server import activation
from coder_agent_server.certificates import Certificates
from coder_agent_server.options import resolve_options
from coder_agent_server.settings import ServerSettings
from coder_agent_server.testing import first_user, make_options, run_server
from coder_agent_server.tls import tls_context
from coder_agent_server.trusted_proxies import TrustedProxies, parse_ip
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from coder_agent.errors import ConfigError

pytestmark = pytest.mark.anyio


def certificate(folder: Path, *names: str) -> tuple[str, str]:
    """A certificate for these host names, and its key."""
    folder.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / f"{names[0].strip('*.')}.crt", folder / f"{names[0].strip('*.')}.key"
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = serialization.PrivateFormat.PKCS8
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption()))
    return str(cert_file), str(key_file)


async def shown(host: str, port: int, name: str) -> str:
    """The common name of the certificate that the server shows to somebody who asks for `name`."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=name)
    try:
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    finally:
        writer.close()
    (common,) = x509.load_der_x509_certificate(der).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(common.value)


async def test_certificates_are_chosen_by_host_name_and_followed_on_disk(tmp_path: Path) -> None:
    pairs = [certificate(tmp_path, "coder.example"), certificate(tmp_path, "*.apps.example", "apps.example")]
    options: dict[str, Any] = {
        "tls_enable": True,
        "tls_address": "127.0.0.1:0",
        "tls_cert_file": ",".join(cert for cert, _ in pairs),
        "tls_key_file": ",".join(key for _, key in pairs),
        "access_url": "https://coder.example",
    }
    async with run_server(tmp_path / "data", **options) as server:
        at = server.running.https
        assert at is not None
        for name, common in (
            ("coder.example", "coder.example"),
            ("web--dev--alice.apps.example", "*.apps.example"),
            ("apps.example", "*.apps.example"),
            ("deep.web.apps.example", "coder.example"),
            ("elsewhere.example", "coder.example"),
        ):
            assert await shown(at.host, at.port, name) == common
        certificate(tmp_path / "new", "renewed.example", "*.apps.example")
        for end, (_, place) in zip(("crt", "key"), (("", pairs[1][0]), ("", pairs[1][1])), strict=True):
            (tmp_path / f"new/renewed.example.{end}").replace(place)
        server.running.reload()
        assert await shown(at.host, at.port, "x.apps.example") == "renewed.example"


async def test_changed_files_are_noticed_without_a_signal(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "old.example")
    options = make_options(tmp_path, tls_enable=True, tls_cert_file=cert, tls_key_file=key)
    assert options.tls is not None
    reloaded = anyio.Event()

    class Watched(Certificates):
        def reload(self) -> None:
            reloaded.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Watched(tls_context(options.tls), options.tls, None).run, 0.01)
        await anyio.wait_all_tasks_blocked()
        new_cert, _ = certificate(tmp_path / "new", "old.example")
        with anyio.fail_after(30):
            while not reloaded.is_set():
                await anyio.Path(cert).write_bytes(await anyio.Path(new_cert).read_bytes())
                await anyio.sleep(0.01)  # the watcher looks as often
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    "settings",
    [
        {"tls_cert_file": "a.crt,b.crt", "tls_key_file": "a.key"},
        {"http_address": "", "http_socket": "/x/s"},
        {"proxy_trusted_headers": ["X-Anything"]},
        {"proxy_trusted_origins": ["10.0.0.0/8"]},
        {"proxy_trusted_origins": ["somewhere"], "proxy_trusted_headers": ["X-Real-Ip"]},
        {"redirect_to_access_url": True},
        {"strict_transport_security": 60, "strict_transport_security_options": ["sometimes"]},
        {"wildcard_access_url": "https://*.example.com"},
        {"wildcard_access_url": "apps.*.example.com"},
        {"wildcard_access_url": "*"},
        {"wildcard_access_url": "*.example.com:99999"},
    ],
    ids=str,
)
async def test_wrong_settings_stop_the_server_before_it_starts(tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        resolve_options(ServerSettings(**settings), lambda: tmp_path)


@pytest.mark.parametrize("pattern", ["*.example.com", "*-apps.example.com", "*.Apps.Example.com:8443"])
async def test_wildcards_that_are_right(tmp_path: Path, pattern: str) -> None:
    assert make_options(tmp_path, wildcard_access_url=pattern).wildcard_access_url == pattern.lower()


# ---------------------------------------------------------------- unix sockets, systemd


async def test_a_unix_socket_serves_beside_tcp_and_goes_away(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with run_server(tmp_path / "data", http_socket=str(path)) as server:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        async with httpx2.AsyncClient(transport=httpx2.AsyncHTTPTransport(uds=str(path))) as client:
            assert (await client.get("http://x/healthz")).text == "OK"
        with pytest.raises(ConfigError, match="another server"):
            async with run_server(tmp_path / "other", http_socket=str(path)):
                pass
        async with httpx2.AsyncClient() as client:
            assert (await client.get(f"{server.url}/healthz")).text == "OK"
    assert not path.exists()
    leftover = socket.socket(socket.AF_UNIX)
    leftover.bind(str(path))
    leftover.close()
    async with run_server(tmp_path / "data", http_socket=str(path)):
        assert path.is_socket()
    path.write_text("precious")
    with pytest.raises(ConfigError, match="no socket"):
        async with run_server(tmp_path / "data", http_socket=str(path)):
            pass
    assert path.read_text() == "precious"


def test_sockets_of_systemd_are_taken_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    given = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    first = min(one.fileno() for one in given)
    numbers = sorted(os.dup2(one.fileno(), first + 200 + i) for i, one in enumerate(given))
    for one in given:
        one.close()
    monkeypatch.setattr(activation, "FIRST_DESCRIPTOR", numbers[0])
    environ = {"LISTEN_FDS": "3", "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": "web:https:metrics"}
    found = activation.inherited_listeners(environ)
    try:
        assert [one.kind for one in found] == ["http", "https", "metrics"]
        assert environ == {}
        assert not any(os.get_inheritable(one.socket.fileno()) for one in found)
    finally:
        for listener in found:
            listener.socket.close()


@pytest.mark.parametrize(
    "environ", [{}, {"LISTEN_FDS": "1", "LISTEN_PID": "1"}, {"LISTEN_FDS": "x", "LISTEN_PID": "y"}]
)
def test_somebody_elses_sockets_are_left_alone(environ: dict[str, str]) -> None:
    assert activation.inherited_listeners(dict(environ)) == []


# ---------------------------------------------------------------- reverse proxies


def scope_of(peer: str | None, **headers: str) -> dict[str, Any]:
    fields = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "client": (peer, 1) if peer else None, "scheme": "http", "headers": fields}


PROXIES = TrustedProxies((ip_network("10.0.0.0/8"), ip_network("::1/128")), ("x-real-ip", "x-forwarded-for"))


@pytest.mark.parametrize(
    ("peer", "headers", "client", "scheme"),
    [
        ("10.1.2.3", {"x_forwarded_for": "203.0.113.9", "x_forwarded_proto": "https"}, "203.0.113.9", "https"),
        ("10.1.2.3", {"x_forwarded_for": "6.6.6.6, 203.0.113.9, 10.9.9.9"}, "203.0.113.9", "http"),
        ("10.1.2.3", {"x_real_ip": "203.0.113.8", "x_forwarded_for": "6.6.6.6"}, "203.0.113.8", "http"),
        ("10.1.2.3", {"x_forwarded_for": "nonsense"}, "10.1.2.3", "http"),
        ("10.1.2.3", {"x_forwarded_proto": "javascript"}, "10.1.2.3", "http"),
        ("203.0.113.7", {"x_forwarded_for": "6.6.6.6", "x_forwarded_proto": "https"}, "203.0.113.7", "http"),
        ("::1", {"x_forwarded_for": "[2001:db8::1]:4711"}, "2001:db8::1", "http"),
        (None, {"x_forwarded_for": "203.0.113.9"}, "203.0.113.9", "http"),
    ],
    ids=["trusted", "list", "first header", "nonsense", "bad scheme", "stranger", "v6 with port", "unix socket"],
)
def test_only_trusted_proxies_are_believed(peer: str | None, headers: dict[str, str], client: str, scheme: str) -> None:
    scope = scope_of(peer, **headers)
    PROXIES.apply(scope)
    assert (scope["client"][0], scope["scheme"]) == (client, scheme)
    if peer == "203.0.113.7":
        assert scope["headers"] == []


def test_addresses_are_read_in_every_form() -> None:
    forms = ("192.0.2.1", "192.0.2.1:80", "::ffff:192.0.2.1", "[::ffff:192.0.2.1]:80")
    assert {str(parse_ip(form)) for form in forms} == {"192.0.2.1"}
    assert parse_ip("fe80::1%eth0") is not None
    assert parse_ip("localhost") is None


# ---------------------------------------------------------------- headers and redirects


async def test_replies_tell_browsers_to_be_careful(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "strict_transport_security": 3600,
        "strict_transport_security_options": ["includesubdomains"],
        "proxy_trusted_headers": ["X-Forwarded-For"],
        "proxy_trusted_origins": ["127.0.0.1/32"],
        "secure_auth_cookie": True,
    }
    async with run_server(tmp_path, **options) as server, first_user(server.url) as alice:
        behind = {"X-Forwarded-Proto": "https", "X-Request-Id": "abcdef0123456789"}
        reply = await alice.get("/api/v2/users/me", headers=behind)
        assert reply.headers["Strict-Transport-Security"] == "max-age=3600; includeSubDomains"
        assert reply.headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert reply.headers["X-Coder-Request-Id"] == "abcdef0123456789"
        plain = await alice.get("/api/v2/users/me")
        assert "Strict-Transport-Security" not in plain.headers
        assert len(plain.headers["X-Coder-Request-Id"]) == 16
        body = {"email": "alice@example.org", "password": "correct horse battery"}
        cookie = (await alice.post("/api/v2/users/login", json=body)).headers["Set-Cookie"].lower()
        assert all(word in cookie for word in ("secure", "httponly", "samesite=lax", "path=/"))


async def test_other_hosts_are_sent_to_the_access_url_and_nowhere_else(tmp_path: Path) -> None:
    options = {
        "access_url": "http://coder.example",
        "redirect_to_access_url": True,
        "wildcard_access_url": "*.apps.example",
    }
    async with run_server(tmp_path, **options) as server:
        host, port = server.address
        async with httpx2.AsyncClient(base_url=f"http://{host}:{port}", follow_redirects=False) as client:
            get: Callable[..., Any] = client.get
            moved = await get("/login?next=/x", headers={"Host": "other.example"})
            assert (moved.status_code, moved.headers["Location"]) == (307, "http://coder.example/login?next=/x")
            evil = await get(f"http://{host}:{port}//evil.example/x", headers={"Host": "other.example"})
            assert evil.headers["Location"] == "http://coder.example/evil.example/x"
            for header, path in (
                ("coder.example", "/login"),
                ("web--dev--alice.apps.example", "/login"),
                ("10.0.0.1", "/healthz"),
                ("10.0.0.1", "/derp/latency-check"),
            ):
                assert (await get(path, headers={"Host": header})).status_code != 307, (header, path)
