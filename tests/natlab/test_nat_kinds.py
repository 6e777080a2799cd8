"""The laboratory itself is proven: each kind of router maps and filters as its name says, measured with plain sockets.

Mapping: what two servers, and two ports of one, see of one socket (as RFC 5780 does it). Filtering: who may answer.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from coder_agent.testing import netns_nat as nat
from coder_agent.testing.netns import Host
from coder_agent.testing.netns_nat import Filtering, Mapping, NatKind
from coder_agent.testing.netns_places import Home, Internet, Visitors
from coder_agent.testing.netns_sockets import udp_socket

pytestmark = pytest.mark.netns
TRANSLATING = [kind for kind in nat.KINDS if kind.udp]
QUIET = 0.15
"""Seconds in which a packet would have crossed two kernels: without loss or load it takes less than 1 ms."""


Open = Callable[..., socket.socket]


@pytest.fixture
def udp() -> Iterator[Open]:
    """`udp_socket`; what was opened is closed with the test."""
    with ExitStack() as exits:
        yield lambda *where: exits.enter_context(udp_socket(*where))


@pytest.fixture
def servers(outside_host: Host, udp: Open) -> Servers:
    return Servers(outside_host, udp)


class Servers:
    """Two addresses with two ports each that tell who they see."""

    def __init__(self, host: Host, udp: Open) -> None:
        first = host.address4
        prefix, _, last = first.rpartition(".")
        second = f"{prefix}.{int(last) + 1}"
        self.a1, self.a2, self.b1 = udp(host, first), udp(host, first), udp(host, second)

    def seen(self, inside: socket.socket, server: socket.socket) -> tuple[str, int]:
        """The address of `inside` as `server` sees it."""
        inside.sendto(b"who am I?", server.getsockname())
        data, source = server.recvfrom(100)
        assert data == b"who am I?"
        return str(source[0]), int(source[1])


def arrives(sender: socket.socket, target: tuple[str, int], inside: socket.socket, *, wait: float = 30) -> bool:
    """Does a packet of `sender` to `target` come to `inside`?"""
    sender.sendto(b"hello", target)
    inside.settimeout(wait)
    try:
        return inside.recv(100) == b"hello"
    except TimeoutError:
        return False


@pytest.mark.parametrize("kind", TRANSLATING, ids=lambda kind: kind.name)
def test_mapping_is_what_the_kind_says(kind: NatKind, guests: Visitors, servers: Servers, udp: Open) -> None:
    home = guests.home("inside", kind)
    inside = udp(home.host, home.host.address4)
    own_port = inside.getsockname()[1]
    seen = [servers.seen(inside, server) for server in (servers.a1, servers.a2, servers.b1, servers.a1)]
    assert {address for address, _ in seen} == {home.outside}
    ports = [port for _, port in seen]
    assert ports[3] == ports[0], "a mapping lasts"
    if kind.mapping is Mapping.INDEPENDENT:
        assert set(ports) == {own_port}
    elif kind.mapping is Mapping.SEQUENTIAL:
        assert [port - ports[0] for port in ports[:3]] == [0, 1, 2]
    else:
        assert len(set(ports)) == 3
        assert (ports[0] == own_port) == (kind.mapping is Mapping.PRESERVING)


@pytest.mark.parametrize("kind", TRANSLATING, ids=lambda kind: kind.name)
def test_filtering_is_what_the_kind_says(kind: NatKind, guests: Visitors, servers: Servers, udp: Open) -> None:
    home = guests.home("inside", kind)
    inside = udp(home.host, home.host.address4)
    target = servers.seen(inside, servers.a1)
    assert arrives(servers.a1, target, inside), "the one that was asked may answer"
    other_port, other_address = (
        kind.filtering is not Filtering.ADDRESS_AND_PORT,
        kind.filtering is Filtering.INDEPENDENT,
    )
    assert arrives(servers.a2, target, inside, wait=2 if other_port else QUIET) == other_port
    assert arrives(servers.b1, target, inside, wait=2 if other_address else QUIET) == other_address


def test_two_easy_routers_can_be_punched(guests: Visitors, servers: Servers, udp: Open) -> None:
    """Also when the first packet finds the other side closed: it must not cost the other side its port."""
    left, right = punched(guests, servers, udp, nat.EASY, nat.EASY)
    assert arrives(left[0], right[1], right[0])
    assert arrives(right[0], left[1], left[0])


def test_easy_and_symmetric_cannot_be_punched_by_sending_where_servers_saw_it(
    guests: Visitors, servers: Servers, udp: Open
) -> None:
    left, right = punched(guests, servers, udp, nat.EASY, nat.SYMMETRIC)
    assert not arrives(left[0], right[1], right[0], wait=QUIET)
    assert not arrives(right[0], left[1], left[0], wait=QUIET)


Side = tuple[socket.socket, tuple[str, int]]


def punched(guests: Visitors, servers: Servers, udp: Open, *kinds: NatKind) -> tuple[Side, Side]:
    """Two sides that have sent to each other, the first one into a closed door."""
    sides: list[Side] = []
    for name, kind in zip(("left", "right"), kinds, strict=True):
        home = guests.home(name, kind)
        inside = udp(home.host, home.host.address4)
        sides.append((inside, servers.seen(inside, servers.a1)))
    left, right = sides
    assert not arrives(left[0], right[1], right[0], wait=QUIET)
    arrives(right[0], left[1], left[0], wait=QUIET)
    return left, right


def test_double_nat_translates_twice(guests: Visitors, servers: Servers, udp: Open) -> None:
    home = guests.home("inside", nat.EASY, nat.SYMMETRIC)
    inside = udp(home.host, home.host.address4)
    assert [router.outside.split(".")[0] for router in home.routers] == ["100", "45"]
    first, second = servers.seen(inside, servers.a1), servers.seen(inside, servers.b1)
    assert first[0] == second[0] == home.outside
    assert first[1] != second[1], "the carrier's router decides"


@pytest.mark.parametrize("kind", [nat.HAIRPIN, nat.EASY], ids=lambda kind: kind.name)
def test_hairpin_leads_back_in_with_the_outside_address(
    kind: NatKind, guests: Visitors, servers: Servers, udp: Open
) -> None:
    homes = guests.family("inside", kind, isolated=True)
    one, two = (udp(home.host, home.host.address4) for home in homes)
    outsides = servers.seen(one, servers.a1), servers.seen(two, servers.a1)
    assert not arrives(one, two.getsockname(), two, wait=QUIET), "guests do not reach each other directly"
    one.sendto(b"hairpin", outsides[1])
    two.settimeout(30 if kind.hairpin else QUIET)
    if not kind.hairpin:
        with pytest.raises(TimeoutError):
            two.recv(100)
        return
    assert two.recvfrom(100) == (b"hairpin", outsides[0])
    assert arrives(two, outsides[0], one)


def test_hosts_of_one_lan_reach_each_other(guests: Visitors, udp: Open) -> None:
    homes = guests.family("inside", nat.EASY)
    one, two = (udp(home.host, home.host.address4) for home in homes)
    assert arrives(one, two.getsockname(), two)


@pytest.mark.parametrize("kind", [nat.UDP_BLOCKED, nat.HTTPS_ONLY], ids=lambda kind: kind.name)
def test_blocked_udp_stays_inside(kind: NatKind, guests: Visitors, servers: Servers, udp: Open) -> None:
    home = guests.home("inside", kind)
    inside = udp(home.host, home.host.address4)
    inside.sendto(b"who am I?", servers.a1.getsockname())
    servers.a1.settimeout(QUIET)
    with pytest.raises(TimeoutError):
        servers.a1.recv(100)


def test_https_only_lets_443_through_and_nothing_else(guests: Visitors, outside_host: Host) -> None:
    """What a closed port answers tells that the packet came: refused is not silence."""
    home = guests.home("inside", nat.HTTPS_ONLY)
    blocked = guests.home("other", nat.UDP_BLOCKED)
    assert connect_error(home, outside_host.address4, 444) == "timed out"
    assert connect_error(home, outside_host.address4, 443) != "timed out"
    assert connect_error(blocked, outside_host.address4, 444) != "timed out"


def connect_error(home: Home, address: str, port: int) -> str:
    """How a TCP connection fails; "" if it does not."""
    program = f"import socket; socket.create_connection(({address!r}, {port}), 1)"
    done = home.host.try_run("python3", "-c", program)
    return done.stderr.strip().rpartition("\n")[2].rpartition(": ")[2]


def test_a_forwarded_port_leads_to_the_host(guests: Visitors, servers: Servers, udp: Open) -> None:
    home = guests.home("inside", NatKind("forward", Mapping.RANDOM, forwards=(41641,)))
    inside = udp(home.host, home.host.address4, 41641)
    assert arrives(servers.b1, (home.outside, 41641), inside)
    inside.sendto(b"answer", servers.b1.getsockname())
    assert servers.b1.recvfrom(100) == (b"answer", (home.outside, 41641))


def test_ipv6_is_guarded_not_translated(guests: Visitors, udp: Open) -> None:
    left, right = (guests.home(name, nat.SYMMETRIC, ipv6=True) for name in ("left", "right"))
    one, two = (udp(home.host, home.host.address6) for home in (left, right))
    assert not arrives(one, two.getsockname()[:2], two, wait=QUIET), "unasked"
    two.sendto(b"hello", one.getsockname())
    one.settimeout(30)
    data, source = one.recvfrom(100)
    assert (data, source[0]) == (b"hello", right.host.address6), "now one has spoken first, and two may"
    assert arrives(one, two.getsockname()[:2], two)


def test_an_idle_mapping_ends_when_it_is_told_to(guests: Visitors, servers: Servers, udp: Open) -> None:
    home = guests.home("inside", nat.SYMMETRIC)
    home.routers[0].remember_udp(1)
    inside = udp(home.host, home.host.address4)
    before = servers.seen(inside, servers.a1)
    # The kernel forgets at its own clock's pace; a packet from outside would tell, but also be a packet of the mapping.
    inside.settimeout(1.5)
    with pytest.raises(TimeoutError):
        inside.recv(100)
    assert servers.seen(inside, servers.a1) != before


def test_two_laboratories_do_not_meet(internet: Internet) -> None:
    with internet.visitors() as one, internet.visitors() as two:
        names = [guests.home("same", nat.EASY).host.name for guests in (one, two)]
        assert len(set(names)) == 2
        namespaces = one.lab.hosts[0].run("ip", "netns", "list")
        assert all(name in namespaces for name in names)
    namespaces = internet.bridge.run("ip", "netns", "list")
    assert not any(name in namespaces for name in names)
