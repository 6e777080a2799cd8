"""What the kernel says about links, addresses and routes: real messages, lifetimes that are renewed, junk."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from coder_agent.protocols.rtnetlink import Kind, LinkTable, News, Way, dump_request, messages, parse_way, way_request

NOTHING = News()
ADDRESSES = News(addresses=True)


def message(kind: int, body: bytes) -> bytes:
    padding = bytes(-len(body) % 4)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body + padding


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def address(kind: int, value: bytes, *, index: int = 2, scope: int = 0, flags: int = 0) -> bytes:
    head = struct.pack("=BBBBi", 2 if len(value) == 4 else 10, 24, flags & 0xFF, scope, index)
    return message(kind, head + attribute(1, value) + attribute(8, struct.pack("=I", flags)))


def link(kind: int, index: int, *, carrier: bool, flags: int = 0) -> bytes:
    return message(kind, struct.pack("=BxHiII", 0, 1, index, flags | (0x10000 if carrier else 0), 0))


HOME, OFFICE = bytes([192, 168, 1, 2]), bytes([192, 168, 1, 77])


def test_a_request_for_the_way_out_is_what_iproute2_sends() -> None:
    assert way_request(bytes([1, 0, 0, 1])).hex() == (
        "24000000" "1a000100" "01000000" "00000000"  # length 36, RTM_GETROUTE, NLM_F_REQUEST
        "02200000" "00000000" "00000000"  # AF_INET, /32
        "08000100" "01000001"  # RTA_DST
    )  # fmt: skip
    assert dump_request(Kind.GET_ADDRESS).hex().startswith("1800000016000103")


def test_the_answer_names_interface_gateway_and_source() -> None:
    route = struct.pack("=BBBBBBBBI", 2, 32, 0, 0, 254, 0, 0, 1, 0x200)
    found = attribute(4, struct.pack("=i", 3)) + attribute(5, bytes([192, 168, 1, 1])) + attribute(7, HOME)
    assert parse_way(message(Kind.NEW_ROUTE, route + found)) == Way(3, bytes([192, 168, 1, 1]), HOME)
    assert parse_way(message(Kind.ERROR, struct.pack("=i", -101))) is None


def test_a_new_and_a_lost_address_are_news_but_a_renewed_one_is_not() -> None:
    table = LinkTable()
    assert not table.has_addresses
    assert table.feed(address(Kind.NEW_ADDRESS, HOME)) == ADDRESSES
    assert table.feed(address(Kind.NEW_ADDRESS, HOME)) == NOTHING
    assert table.feed(address(Kind.DEL_ADDRESS, OFFICE)) == NOTHING
    assert table.feed(address(Kind.DEL_ADDRESS, HOME) + address(Kind.NEW_ADDRESS, OFFICE)) == ADDRESSES
    assert table.has_addresses


def test_addresses_that_mean_nothing_to_others_are_no_news() -> None:
    table = LinkTable()
    assert table.feed(address(Kind.NEW_ADDRESS, bytes([127, 0, 0, 1]), scope=254)) == NOTHING
    assert table.feed(address(Kind.NEW_ADDRESS, b"\xfe\x80" + bytes(14), scope=253)) == NOTHING
    assert not table.has_addresses


def test_an_ipv6_address_counts_once_it_is_known_to_be_unique() -> None:
    table, value = LinkTable(), b"\x20\x01" + bytes(14)
    assert table.feed(address(Kind.NEW_ADDRESS, value, flags=0x40)) == NOTHING
    assert table.feed(address(Kind.NEW_ADDRESS, value)) == ADDRESSES
    assert table.feed(address(Kind.DEL_ADDRESS, value)) == ADDRESSES


def test_a_link_that_is_back_is_news_if_it_has_an_address_of_ours() -> None:
    table = LinkTable()
    table.feed(address(Kind.NEW_ADDRESS, HOME, index=2))
    for index, expected in ((2, True), (3, False)):
        assert table.feed(link(Kind.NEW_LINK, index, carrier=True)) == NOTHING
        assert table.feed(link(Kind.NEW_LINK, index, carrier=False)) == NOTHING
        assert table.feed(link(Kind.NEW_LINK, index, carrier=True)).link is expected


def test_routes_are_news_to_be_looked_at() -> None:
    assert LinkTable().feed(message(Kind.NEW_ROUTE + 1, bytes(12))) == News(routes=True)


@given(st.binary(max_size=300))
def test_junk_is_not_believed_and_raises_nothing(junk: bytes) -> None:
    LinkTable().feed(junk)
    parse_way(junk)
    for kind in (Kind.NEW_ADDRESS, Kind.NEW_LINK, Kind.NEW_ROUTE):
        whole = message(kind, junk)
        LinkTable().feed(whole)
        parse_way(whole)
        assert sum(len(one.body) for one in messages(whole)) <= len(whole)


def test_what_is_cut_off_is_left_out() -> None:
    whole = address(Kind.NEW_ADDRESS, HOME)
    for length in range(len(whole)):
        assert LinkTable().feed(whole[:length]) == NOTHING
