"""Which addresses of a node are tried, in which order; whose certificate is good enough."""

from __future__ import annotations

import socket
from dataclasses import replace

import anyio
import pytest
import trustme
from coder_agent_transport_derp.dial import connect, endpoint_of, targets_of
from coder_agent_transport_derp.region import backoff
from coder_agent_transport_derp.tls import check_name
from cryptography import x509

from coder_agent.base.derp_map import DerpNode
from coder_agent.errors import EgressRefused, TransportBroken
from coder_agent.hooks import DialOptions, Egress, Purpose, Verdict

pytestmark = pytest.mark.anyio

NODE = DerpNode("1a", 1, "relay.example")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize(
    ("node", "port", "host"),
    [
        (NODE, 443, "relay.example"),
        (replace(NODE, derp_port=8443), 8443, "relay.example:8443"),
        (replace(NODE, force_http=True), 80, "relay.example"),
        (replace(NODE, force_http=True, derp_port=3000), 3000, "relay.example:3000"),
        (replace(NODE, host_name="2001:db8::1", derp_port=8443), 8443, "[2001:db8::1]:8443"),
    ],
)
def test_port_and_host_header(node: DerpNode, port: int, host: str) -> None:
    assert (endpoint_of(node).port, endpoint_of(node).host_header) == (port, host)


async def resolved(node: DerpNode, answers: dict[int, list[str]], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses tried for `node`, with `answers` per family from the resolver."""

    async def lookup(host: str, port: int, *, family: int = 0, type: int = 0) -> list[object]:
        families = [family] if family else [socket.AF_INET, socket.AF_INET6]
        return [(f, type, 6, "", (address, port)) for f in families for address in answers.get(f, [])]

    monkeypatch.setattr(anyio, "getaddrinfo", lookup)
    return [where[0] for _, where in await targets_of(node)]


BOTH: dict[int, list[str]] = {socket.AF_INET: ["192.0.2.1"], socket.AF_INET6: ["2001:db8::1"]}


@pytest.mark.parametrize(
    ("ipv4", "ipv6", "expected"),
    [
        ("", "", ["2001:db8::1", "192.0.2.1"]),
        ("198.51.100.1", "", ["2001:db8::1", "198.51.100.1"]),
        ("198.51.100.1", "none", ["198.51.100.1"]),
        ("none", "", ["2001:db8::1"]),
        ("none", "2001:db8::9", ["2001:db8::9"]),
        ("2001:db8::9", "192.0.2.9", []),
    ],
)
async def test_address_fields_replace_dns_and_nonsense_switches_a_family_off(
    ipv4: str, ipv6: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await resolved(replace(NODE, ipv4=ipv4, ipv6=ipv6), BOTH, monkeypatch) == expected


async def test_a_node_without_addresses_and_a_name_that_does_not_exist_are_sentences(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def lookup(host: str, port: int, *, family: int = 0, type: int = 0) -> list[object]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(anyio, "getaddrinfo", lookup)
    with pytest.raises(TransportBroken, match="no usable address"):
        await connect(replace(NODE, ipv4="none", ipv6="none"), DialOptions(proxy=""))
    with pytest.raises(TransportBroken, match=r"relay\.example cannot be resolved: Name or service"):
        await connect(NODE, DialOptions(proxy=""))


async def test_the_second_address_is_tried_at_once_when_the_first_refuses() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        node = replace(NODE, ipv6="::1", ipv4="127.0.0.1", derp_port=port)
        with anyio.fail_after(30):
            sock = await connect(node, DialOptions(proxy=""))
        assert sock.getpeername() == ("127.0.0.1", port)
        sock.close()


async def test_a_refused_connection_says_so() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(TransportBroken, match="refuses the connection"):
        await connect(replace(NODE, ipv4="127.0.0.1", ipv6="none", derp_port=port), DialOptions(proxy=""))


async def test_a_dead_proxy_is_a_sentence() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(TransportBroken, match=r"the proxy 127\.0\.0\.1:\d+ cannot be reached"):
        await connect(NODE, DialOptions(proxy=f"http://127.0.0.1:{port}"))


def certificate(*names: str) -> x509.Certificate:
    issued = trustme.CA().issue_cert(*names)
    return x509.load_pem_x509_certificate(issued.cert_chain_pems[0].bytes())


@pytest.mark.parametrize(
    ("names", "wanted", "good"),
    [
        (["relay.example"], "relay.example", True),
        (["relay.example"], "RELAY.example.", True),
        (["*.example.com"], "relay.example.com", True),
        (["*.example.com"], "a.b.example.com", False),
        (["*.example.com"], "example.com", False),
        (["192.0.2.1"], "192.0.2.1", True),
        (["relay.example"], "192.0.2.1", False),
        (["relay.example"], "other.example", False),
    ],
)
def test_names_on_certificates(names: list[str], wanted: str, good: bool) -> None:
    if good:
        check_name(certificate(*names), wanted)
    else:
        with pytest.raises(TransportBroken, match="is not for"):
            check_name(certificate(*names), wanted)


def test_back_off_grows_to_its_cap() -> None:
    for failures, middle in ((1, 0.01), (10, 1.0), (22, 4.84), (1000, 5.0)):
        assert 0.5 * middle <= backoff(failures) <= 1.5 * middle


class Listed:
    """An egress policy that allows what it was given; a listed name, wherever it leads."""

    name = "listed"

    def __init__(self, *allowed: str) -> None:
        self.allowed = allowed

    def judge(self, host: str, address: str | None, port: int, purpose: Purpose) -> Verdict:
        return Verdict(host in self.allowed, "the list")

    def trust(self, host: str, reason: str) -> None:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("ipv4", "ipv6", "allowed", "expected"),
    [
        ("", "", ["relay.example"], ["2001:db8::1", "192.0.2.1"]),
        ("192.0.2.77", "", ["192.0.2.77"], ["192.0.2.77"]),  # and its name is not looked up
        ("192.0.2.77", "", ["relay.example"], ["2001:db8::1"]),  # the map lends no name to an address
        ("192.0.2.77", "2001:db8::77", ["2001:db8::77", "relay.example"], ["2001:db8::77"]),
        ("", "", [], None),
        ("192.0.2.77", "", [], None),
        ("192.0.2.77", "none", ["relay.example"], None),
        ("192.0.2.77", "2001:db8::77", ["relay.example"], None),
    ],
)
async def test_addresses_that_the_egress_policy_forbids_are_not_tried(
    ipv4: str, ipv6: str, allowed: list[str], expected: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[str] = []

    async def lookup(host: str, port: int, *, family: int = 0, type: int = 0) -> list[object]:
        looked_up.append(host)
        families = [family] if family else [socket.AF_INET, socket.AF_INET6]
        return [(f, type, 6, "", (address, port)) for f in families for address in BOTH[f]]

    monkeypatch.setattr(anyio, "getaddrinfo", lookup)
    node, egress = replace(NODE, ipv4=ipv4, ipv6=ipv6), Egress(Listed(*allowed))
    if expected is None:
        with pytest.raises(EgressRefused, match="may not be reached from here"):
            await connect(node, DialOptions(proxy="none", egress=egress))
        assert egress.refused
    else:
        assert [where[0] for _, where in await targets_of(node, egress)] == expected
    assert (looked_up == ["relay.example"]) is ("relay.example" in allowed and not (ipv4 and ipv6))
