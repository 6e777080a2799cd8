"""Our own messages: golden bytes, round trips, every cut and junk, and the bounds."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from coder_agent.base.addresses import AddrPort
from coder_agent.base.nat_facts import NatFacts, PathReport
from coder_agent.protocols.disco import Facts, GuessMyPort, parse
from coder_agent.protocols.disco.facts import MAX_RULE, MAX_SEEN_FROM, MAX_TRIED

PUBLIC = AddrPort("203.0.113.7", 41641)
PUBLIC6 = AddrPort("2001:db8::7", 41641)
FACTS = NatFacts(
    udp=True,
    ipv4=True,
    ipv6=False,
    mapping_varies=True,
    port_step=-2,
    public_v4=PUBLIC,
    port_mapping=frozenset({"pcp", "upnp"}),
    port_mapped=False,
    mtu=1500,
    direct_rule="workspace dev",
    listen_port=41641,
    nat_layers=2,
)
REPORT = PathReport(FACTS, 7, 0, 1, (PUBLIC6,), (AddrPort("198.51.100.1", 5),), too_small=True)
GOLDEN = (
    "7000"
    "05 1f 0b 06 02 fffe 05dc a2a9 0007 0000 0001"
    "00000000000000000000ffffcb007107a2a9"
    "000000000000000000000000000000000000"
    "0d 776f726b737061636520646576"
    "01 20010db8000000000000000000000007a2a9"
    "01 00000000000000000000ffffc63364010005"
)

addresses = st.builds(
    AddrPort.of,
    st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16)),
    st.integers(1, 65535),
)
v4 = st.builds(AddrPort.of, st.binary(min_size=4, max_size=4), st.integers(1, 65535))
v6 = st.builds(
    lambda tail: AddrPort.of(b"\x20" + tail, 9), st.binary(min_size=15, max_size=15)
)  # not a mapped IPv4 address
tristate = st.one_of(st.none(), st.booleans())
nat_facts = st.builds(
    NatFacts,
    udp=tristate,
    ipv4=tristate,
    ipv6=tristate,
    mapping_varies=tristate,
    port_step=st.integers(-0x8000, 0x7FFF),
    public_v4=st.none() | v4,
    public_v6=st.none() | v6,
    port_mapping=st.frozensets(st.sampled_from(["pmp", "pcp", "upnp"])),
    port_mapped=tristate,
    gateway_asked=tristate,
    captive_portal=tristate,
    mtu=st.integers(0, 65535),
    direct_allowed=tristate,
    direct_rule=st.text(st.characters(categories=["L", "N"]), max_size=16),
    listen_port=st.integers(0, 65535),
    nat_layers=st.integers(0, 255),
)
counts = st.integers(0, 65535)
reports = st.builds(
    PathReport,
    nat_facts,
    counts,
    counts,
    counts,
    st.lists(addresses, max_size=MAX_TRIED).map(tuple),
    st.lists(addresses, max_size=MAX_SEEN_FROM).map(tuple),
    st.booleans(),
    st.booleans(),
)


def test_facts_golden() -> None:
    message = Facts(REPORT, ask=True)
    assert message.encode().hex() == GOLDEN.replace(" ", "")
    assert parse(bytes.fromhex(GOLDEN)) == message


def test_guess_my_port_golden() -> None:
    assert GuessMyPort(3, 256).encode().hex() == "710003000100"
    assert parse(bytes.fromhex("710003010100")) == GuessMyPort(3, 256, stop=True)


def test_facts_name_every_field_of_the_report() -> None:
    """A field that a room adds to the report must be added to the wire, too."""
    everything = PathReport(
        NatFacts(
            udp=True, ipv4=True, ipv6=True, mapping_varies=True, port_step=1, public_v4=PUBLIC, public_v6=PUBLIC6,
            port_mapping=frozenset({"pmp", "pcp", "upnp"}), port_mapped=True, gateway_asked=True, captive_portal=True,
            mtu=1, direct_allowed=True, direct_rule="x", listen_port=1, nat_layers=1,
        ),
        1, 1, 1, (PUBLIC,), (PUBLIC,), True, True,
    )  # fmt: skip
    for value, blank in ((everything, PathReport()), (everything.facts, NatFacts())):
        for field in dataclasses.fields(value):
            assert getattr(value, field.name) != getattr(blank, field.name), field.name
    assert parse(Facts(everything).encode()) == Facts(everything)


@given(reports, st.booleans())
def test_facts_come_back_as_they_were(report: PathReport, ask: bool) -> None:
    assert parse(Facts(report, ask).encode()) == Facts(report, ask)


@given(reports, st.binary(max_size=40))
def test_bytes_behind_are_ignored(report: PathReport, rest: bytes) -> None:
    assert parse(Facts(report).encode() + rest) == Facts(report)
    assert parse(GuessMyPort(1, 2).encode() + rest) == GuessMyPort(1, 2)


def test_every_cut_is_malformed() -> None:
    whole = Facts(REPORT).encode()
    assert all(parse(whole[:size]) is None for size in range(2, len(whole)))
    guess = GuessMyPort(1, 256).encode()
    assert all(parse(guess[:size]) is None for size in range(2, len(guess)))


@given(st.sampled_from([0x70, 0x71]), st.binary(max_size=900))
def test_junk_never_raises(kind: int, body: bytes) -> None:
    parse(bytes((kind, 0)) + body)


def test_another_version_is_not_understood() -> None:
    for message in (Facts(REPORT).encode(), GuessMyPort(1, 2).encode()):
        assert parse(message[:1] + b"\x01" + message[2:]) is None


def test_what_is_too_long_is_cut_by_the_sender_and_refused_by_the_receiver() -> None:
    many = tuple(AddrPort("198.51.100.1", port) for port in range(1, 200))
    long = PathReport(NatFacts(direct_rule="ü" * 200, mtu=70000), 100_000, -1, 3, many, many)
    encoded = Facts(long).encode()
    assert len(encoded) <= 850
    read = parse(encoded)
    assert isinstance(read, Facts)
    assert read.report.tried == many[:MAX_TRIED]
    assert read.report.seen_from == many[-MAX_SEEN_FROM:]
    assert (read.report.sent, read.report.answered, read.report.facts.mtu) == (65535, 0, 65535)
    assert read.report.facts.direct_rule == "ü" * (MAX_RULE // 2)
    at = encoded.index(bytes((MAX_TRIED,)) + many[0].packed16())
    assert parse(encoded[:at] + bytes((MAX_TRIED + 1,)) + encoded[at + 1 :] + bytes(100)) is None


def test_words_of_a_stranger_cannot_move_the_cursor() -> None:
    read = parse(Facts(PathReport(NatFacts(direct_rule="a\x1b[2J\nb"))).encode())
    assert isinstance(read, Facts)
    assert read.report.facts.direct_rule == "a[2Jb"


def test_an_address_of_the_wrong_family_is_no_public_address() -> None:
    swapped = Facts(PathReport(NatFacts(public_v4=PUBLIC6, public_v6=PUBLIC))).encode()
    read = parse(swapped)
    assert isinstance(read, Facts)
    assert (read.report.facts.public_v4, read.report.facts.public_v6) == (None, None)
