"""The certificate of a running server: what the relay puts behind it, and renewals."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest
import trustme
from coder_agent_server.certificates import Certificates
from coder_agent_server.options import HostPort, TlsOptions
from coder_agent_server.testing import run_server

from coder_agent import tls_server
from coder_agent.hooks import DialOptions
from coder_agent.http import request
from coder_agent.tls_server import TlsGate, TlsTransport


class Relay:
    """One that puts a certificate of its own behind the chain."""

    def __init__(self, folder: Path) -> None:
        self.extra = folder / "extra.pem"
        trustme.CA().cert_pem.write_to_path(self.extra)

    def load_chain(self, context: ssl.SSLContext, cert_file: str, key_file: str) -> None:
        """Both."""
        context.load_cert_chain(cert_file, key_file)
        together = self.extra.with_name("together.pem")
        together.write_text(Path(cert_file).read_text() + self.extra.read_text())
        context.load_cert_chain(together, key_file)


def issue(folder: Path) -> TlsOptions:
    files = TlsOptions(HostPort("127.0.0.1", 0), folder / "cert.pem", folder / "key.pem")
    issued = trustme.CA().issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(files.cert_file)
    issued.private_key_pem.write_to_path(files.key_file)
    return files


def shown(context: ssl.SSLContext) -> list[str]:
    """The chain that a client sees in a handshake, as PEM."""
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(back, there)
    server = context.wrap_bio(there, back, server_side=True)
    for _ in range(2):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass
    return [one.public_bytes() for one in client._sslobj.get_unverified_chain()]  # type: ignore[attr-defined]


def test_what_the_relay_wants_is_behind_the_chain_and_stays_there(tmp_path: Path) -> None:
    files, relay = issue(tmp_path), Relay(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificates = Certificates(context, files, relay)  # type: ignore[arg-type]
    certificates.start()
    assert shown(context) == [files.cert_file.read_text(), relay.extra.read_text()]
    issue(tmp_path)
    certificates.reload()
    assert shown(context) == [files.cert_file.read_text(), relay.extra.read_text()]


def test_a_broken_renewal_leaves_the_old_one_in_force(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = issue(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificates = Certificates(context, files, None)
    certificates.start()
    before = shown(context)
    files.key_file.write_text("broken")
    certificates.reload()
    assert shown(context) == before
    assert "the old certificate stays in force" in caplog.text


@pytest.mark.anyio
async def test_a_running_server_reads_its_certificate_again(tmp_path: Path) -> None:
    files = issue(tmp_path)
    settings = {"tls_enable": True, "tls_address": "127.0.0.1:0"}
    settings |= {"tls_cert_file": str(files.cert_file), "tls_key_file": str(files.key_file)}
    async with run_server(tmp_path / "data", **settings) as server:
        at = server.running.https
        assert at is not None
        first = await asyncio.to_thread(ssl.get_server_certificate, (at.host, at.port))
        issue(tmp_path)
        server.running.reload()
        second = await asyncio.to_thread(ssl.get_server_certificate, (at.host, at.port))
        assert second == files.cert_file.read_text() != first


@pytest.mark.anyio
async def test_connections_with_tls_share_their_buffer_and_are_https(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncio's own TLS keeps 256 KiB for each: with a thousand relayed clients, 290 KB apiece instead of 24."""
    made: list[TlsTransport] = []

    class Noting(TlsTransport):
        def __init__(self, gate: TlsGate) -> None:
            super().__init__(gate)
            made.append(self)

    monkeypatch.setattr(tls_server, "TlsTransport", Noting)
    files = issue(tmp_path)
    settings = {"tls_enable": True, "tls_address": "127.0.0.1:0"}
    settings |= {"tls_cert_file": str(files.cert_file), "tls_key_file": str(files.key_file)}
    async with run_server(tmp_path / "data", **settings) as server:
        at = server.running.https
        assert at is not None
        url, options = f"https://{at.host}:{at.port}", DialOptions(proxy="", insecure=True)
        for _ in range(3):
            answer = await request("GET", f"{url}/healthz", options=options, timeout=10)
            assert (answer.status, answer.body) == (200, b"OK")
    assert len(made) == 3
    assert len({id(one.gate.room) for one in made}) == 1


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
