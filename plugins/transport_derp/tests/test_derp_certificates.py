"""Certificates of relays: pins, names of their own, nodes that are an address; and the one that starts clients fast.

Python shows the whole chain from 3.13 on. Where it does not, the tests look for it, so that both cases are tested.
"""

from __future__ import annotations

import hashlib
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from coder_agent_transport_derp import connection as connection_module
from coder_agent_transport_derp import tls as tls_module
from coder_agent_transport_derp.daemon.door import Door
from coder_agent_transport_derp.meta_certificate import meta_certificate, relay_key_in
from coder_agent_transport_derp.relay import DerpRelay
from coder_agent_transport_derp.standalone import serve_relay
from coder_agent_transport_derp.tls import chain_of
from coder_agent_transport_derp.transport import DerpTransport, DerpTransportFactory

from coder_agent.base.addresses import AddrPort
from coder_agent.base.derp_map import DerpMap, DerpNode, DerpRegion
from coder_agent.base.keys import NodePrivate, NodePublic
from coder_agent.hooks import DialOptions
from coder_agent.hooks.interfaces import TransportContext
from coder_agent.testing.relay_news import RelayNews

pytestmark = pytest.mark.anyio


def whole_chain(tls: ssl.SSLObject) -> list[bytes]:
    """SSLObject.get_unverified_chain as Python 3.13 has it."""
    shown = tls._sslobj.get_unverified_chain()  # type: ignore[attr-defined]
    return [ssl.PEM_cert_to_DER_cert(one.public_bytes()) for one in shown]


@pytest.fixture
def python_3_13(monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(ssl.SSLObject, "get_unverified_chain"):
        for module in (tls_module, connection_module):
            monkeypatch.setattr(module, "chain_of", whole_chain)


@pytest.fixture
def python_3_11(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (tls_module, connection_module):
        monkeypatch.setattr(module, "chain_of", lambda tls: [tls.getpeercert(binary_form=True)])


class Files:
    """A relay's certificate as files, and what a client must know to trust it."""

    def __init__(self, folder: Path, *names: str, days: int = 90, extra: int = 0) -> None:
        self.authority = trustme.CA()
        until = datetime.now(UTC) + timedelta(days=days)
        issued = self.authority.issue_cert(*names, not_after=until)
        own = issued.cert_chain_pems[0].bytes()
        others = [trustme.CA().issue_cert("other.example").cert_chain_pems[0].bytes() for _ in range(extra)]
        self.cert, self.key, self.ca = folder / "cert.pem", folder / "key.pem", folder / "ca.pem"
        self.cert.write_bytes(b"".join([own, *others]))
        issued.private_key_pem.write_to_path(self.key)
        self.authority.cert_pem.write_to_path(self.ca)
        self.pin = "sha256-raw:" + hashlib.sha256(ssl.PEM_cert_to_DER_cert(own.decode())).hexdigest()

    def context(self, relay: DerpRelay | None = None) -> ssl.SSLContext:
        """With `relay`: its key's certificate behind the chain."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if relay is None:
            context.load_cert_chain(self.cert, self.key)
        else:
            relay.load_chain(context, str(self.cert), str(self.key))
        return context


@asynccontextmanager
async def client(at: AddrPort, host: str, dial: DialOptions, cert_name: str = "") -> AsyncIterator[RelayNews]:
    """Calls the relay at `at`, which the map knows as `host`."""
    sink = RelayNews()
    context = TransportContext(sink, NodePrivate.generate(os.urandom), sink.emit, dial=dial)
    node = DerpNode("1a", 1, host, ipv4=at.host, ipv6="none", derp_port=at.port, cert_name=cert_name)
    async with DerpTransportFactory().open(context) as transport:
        assert isinstance(transport, DerpTransport)
        transport.set_map(DerpMap({1: DerpRegion(1, "r", "R", (node,))}))
        transport.set_home(1)
        yield sink


async def told(files: Files, host: str, cert_name: str, *, ca: bool = False, relay: DerpRelay | None = None) -> str:
    """What a client says of such a relay: "" if it is connected."""
    relay = relay or DerpRelay()
    dial = DialOptions(proxy="", ca_file=str(files.ca) if ca else None)
    async with serve_relay(relay, tls=files.context(relay)) as at, client(at, host, dial, cert_name) as sink:
        event = await sink.first()
        return "" if event.connected else event.reason


# ---------------------------------------------------------------- pins


@pytest.mark.parametrize("host", ["relay.example", "127.0.0.1"])
async def test_a_pin_is_enough_for_a_certificate_that_nobody_vouches_for(host: str, tmp_path: Path) -> None:
    files = Files(tmp_path, host)
    assert "does not verify" in await told(files, host, "")
    assert await told(files, host, files.pin) == ""


async def test_a_pin_is_exact_and_the_certificate_still_for_that_host_and_in_date(tmp_path: Path) -> None:
    files = Files(tmp_path, "127.0.0.1")
    wrong = files.pin[:-1] + ("0" if files.pin[-1] != "0" else "1")
    assert "does not match its pin" in await told(files, "127.0.0.1", wrong)
    other = Files(tmp_path, "192.0.2.1")
    assert "not for 127.0.0.1" in await told(other, "127.0.0.1", other.pin)
    old = Files(tmp_path, "127.0.0.1", days=-1)
    assert "out of date" in await told(old, "127.0.0.1", old.pin)


@pytest.mark.usefixtures("python_3_13")
async def test_beside_a_pinned_certificate_there_is_none_but_the_relays_own_key(tmp_path: Path) -> None:
    alone = Files(tmp_path, "relay.example")
    assert await told(alone, "relay.example", alone.pin) == ""
    more = Files(tmp_path, "relay.example", extra=1)
    assert "more certificates than the pinned one" in await told(more, "relay.example", more.pin)


@pytest.mark.usefixtures("python_3_11")
async def test_where_python_does_not_show_the_chain_the_pinned_certificate_decides(tmp_path: Path) -> None:
    more = Files(tmp_path, "relay.example", extra=1)
    assert await told(more, "relay.example", more.pin) == ""
    wrong = "sha256-raw:" + "0" * 64
    assert "does not match its pin" in await told(more, "relay.example", wrong)


# ---------------------------------------------------------------- names


async def test_a_name_of_its_own_on_a_certificate_that_the_authority_vouches_for(tmp_path: Path) -> None:
    files = Files(tmp_path, "certificate.example")
    assert await told(files, "relay.example", "certificate.example", ca=True) == ""
    assert "not for other.example" in await told(files, "relay.example", "other.example", ca=True)
    assert "does not verify" in await told(files, "relay.example", "certificate.example"), "a name is no pin"


async def test_a_node_that_is_an_address_with_the_authoritys_certificate(tmp_path: Path) -> None:
    files = Files(tmp_path, "127.0.0.1")
    assert await told(files, "127.0.0.1", "", ca=True) == ""


# ---------------------------------------------------------------- fast start


@pytest.mark.usefixtures("python_3_13")
async def test_a_client_that_sees_the_relays_key_in_the_handshake_logs_in_at_once(tmp_path: Path) -> None:
    files, relay = Files(tmp_path, "relay.example"), DerpRelay()
    assert await told(files, "relay.example", "", ca=True, relay=relay) == ""
    assert relay.metrics()["fast_starts"] == 1


@pytest.mark.usefixtures("python_3_11")
async def test_one_that_cannot_see_it_waits_for_the_answer(tmp_path: Path) -> None:
    files, relay = Files(tmp_path, "relay.example"), DerpRelay()
    assert await told(files, "relay.example", "", ca=True, relay=relay) == ""
    assert relay.metrics().get("fast_starts", 0) == 0


@pytest.mark.usefixtures("python_3_13")
async def test_before_tls_1_3_the_way_between_sees_certificates_and_may_change_them(tmp_path: Path) -> None:
    files, relay = Files(tmp_path, "relay.example"), DerpRelay()
    context = files.context(relay)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    dial = DialOptions(proxy="", ca_file=str(files.ca))
    async with serve_relay(relay, tls=context) as at, client(at, "relay.example", dial) as sink:
        assert (await sink.first()).connected
    assert relay.metrics().get("fast_starts", 0) == 0


@pytest.mark.usefixtures("python_3_13")
async def test_a_relay_that_refuses_a_fast_start_is_understood(tmp_path: Path) -> None:
    files, relay = Files(tmp_path, "relay.example"), DerpRelay()
    dial = DialOptions(proxy="", ca_file=str(files.ca))
    door = Door(relay, token="secret")
    async with serve_relay(relay, tls=files.context(relay), door=door) as at, client(at, "relay.example", dial) as sink:
        assert "HTTP 401" in (await sink.first()).reason
    told_token = DialOptions(proxy="", ca_file=str(files.ca), headers={"Derp-Token": "secret"})
    async with (
        serve_relay(relay, tls=files.context(relay), door=Door(relay, token="secret")) as at,
        client(at, "relay.example", told_token) as sink,
    ):
        assert (await sink.first()).connected
    assert relay.metrics()["fast_starts"] == 1


def test_the_key_is_found_among_certificates_and_nowhere_else(tmp_path: Path) -> None:
    key = NodePublic(bytes(range(1, 33)))
    meta = ssl.PEM_cert_to_DER_cert(meta_certificate(key, datetime.now(UTC)))
    files = Files(tmp_path, "relay.example", "derpkey.example")
    own = ssl.PEM_cert_to_DER_cert(files.cert.read_text())
    assert relay_key_in([own, meta]) == key
    assert relay_key_in([own]) is None
    assert relay_key_in([]) is None
    version_3 = meta.replace(b"\xa0\x03\x02\x01\x02\x02\x01\x02", b"\xa0\x03\x02\x01\x02\x02\x01\x03", 1)
    assert version_3 != meta
    assert relay_key_in([version_3]) is None, "another version of the protocol"
    assert relay_key_in([meta[:60]]) is None


def test_a_chain_as_python_shows_it() -> None:
    class Shown:
        def get_unverified_chain(self) -> list[bytes]:
            return [b"own", b"more"]

    class Hidden:
        def getpeercert(self, binary_form: bool) -> bytes:
            return b"own"

    assert chain_of(Shown()) == [b"own", b"more"]  # type: ignore[arg-type]
    assert chain_of(Hidden()) == [b"own"]  # type: ignore[arg-type]
