from __future__ import annotations

import random

from coder_agent.base.addresses import AddrPort
from coder_agent.base.keys import NodePublic
from coder_agent.base.paths import DerpPath, UdpPath
from coder_agent.protocols.wireguard.admission import (
    LOAD_LIMIT,
    MAX_SOURCES,
    Admission,
    LoadGauge,
    SourceLimiter,
    Verdict,
    encode_source,
)
from coder_agent.protocols.wireguard.cookie import MacStamper
from coder_agent.protocols.wireguard.messages import parse_cookie_reply

ME = b"m" * 32
SOURCE = UdpPath(AddrPort("192.0.2.7", 7))
BODY = bytes([1, 0, 0, 0]) + b"indx" + bytes(108)


def test_load_is_more_than_the_limit_in_a_second_and_holds_for_another() -> None:
    gauge = LoadGauge()
    assert not any(gauge.is_high(i / LOAD_LIMIT) for i in range(LOAD_LIMIT))
    assert gauge.is_high(1.0)
    assert gauge.is_high(1.999)
    assert not gauge.is_high(3.1)


def test_load_is_not_reached_by_a_slow_stream() -> None:
    gauge = LoadGauge()
    assert not any(gauge.is_high(i / 120) for i in range(1000))


def test_source_gets_five_at_once_and_twenty_a_second() -> None:
    limiter = SourceLimiter()
    assert [limiter.allows("a", 0.0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert limiter.allows("b", 0.0)
    assert [limiter.allows("a", 0.051), limiter.allows("a", 0.051)] == [True, False]
    assert sum(limiter.allows("a", 1.0 + i / 1000) for i in range(1000)) in (24, 25)


def test_table_of_sources_is_bounded() -> None:
    limiter = SourceLimiter()
    assert all(limiter.allows(i, 0.0) for i in range(MAX_SOURCES))
    assert not limiter.allows("one more", 0.1)
    assert limiter.allows(0, 0.1)
    assert limiter.allows("one more", 0.26)
    assert len(limiter._buckets) < MAX_SOURCES


def under_load(admission: Admission) -> None:
    stamper = MacStamper(ME)
    for _ in range(LOAD_LIMIT + 1):
        admission.judge(stamper.stamp(BODY, 0.0), "flood", 0.0)


def test_forged_mac1_is_refused_and_is_no_load() -> None:
    admission = Admission(ME, random.Random(1).randbytes)
    forged = MacStamper(b"other" * 6 + b"xx").stamp(BODY, 0.0)
    verdicts = {admission.judge(forged, SOURCE, 0.0) for _ in range(LOAD_LIMIT * 2)}
    assert verdicts == {Verdict.FORGED}
    assert admission.judge(MacStamper(ME).stamp(BODY, 0.0), SOURCE, 0.0) is Verdict.ACCEPT


def test_under_load_a_cookie_is_asked_for_and_accepted_from_the_same_source_only() -> None:
    admission = Admission(ME, random.Random(1).randbytes)
    under_load(admission)
    stamper = MacStamper(ME)
    message = stamper.stamp(BODY, 0.1)
    assert admission.judge(message, SOURCE, 0.1) is Verdict.ASK_COOKIE
    reply = admission.cookie_reply(message, SOURCE, 0.1)
    assert (len(reply), reply[4:8]) == (64, b"indx")
    assert stamper.take_cookie(parse_cookie_reply(reply), 0.1)

    proven = stamper.stamp(BODY, 0.2)
    other_port = UdpPath(AddrPort("192.0.2.7", 8))
    assert admission.judge(proven, SOURCE, 0.2) is Verdict.ACCEPT
    assert admission.judge(proven, other_port, 0.2) is Verdict.ASK_COOKIE
    verdicts = [admission.judge(proven, SOURCE, 0.2) for _ in range(5)]
    assert verdicts == [Verdict.ACCEPT] * 4 + [Verdict.TOO_MANY]
    assert admission.judge(stamper.stamp(BODY, 3.0), other_port, 3.0) is Verdict.ACCEPT  # the load is over


def test_ports_of_one_address_share_a_bucket_and_relayed_peers_do_not() -> None:
    admission = Admission(ME, random.Random(1).randbytes)
    under_load(admission)

    def verdicts(sources: list[UdpPath | DerpPath]) -> list[Verdict]:
        found = []
        for source in sources:
            stamper = MacStamper(ME)
            message = stamper.stamp(BODY, 0.1)
            assert stamper.take_cookie(parse_cookie_reply(admission.cookie_reply(message, source, 0.1)), 0.1)
            found.append(admission.judge(stamper.stamp(BODY, 0.1), source, 0.1))
        return found

    ports: list[UdpPath | DerpPath] = [UdpPath(AddrPort("192.0.2.7", port)) for port in range(7)]
    assert verdicts(ports) == [Verdict.ACCEPT] * 5 + [Verdict.TOO_MANY] * 2
    relayed: list[UdpPath | DerpPath] = [DerpPath(1, NodePublic(bytes([i]) * 32)) for i in range(7)]
    assert verdicts(relayed) == [Verdict.ACCEPT] * 7


def test_sources_are_encoded_apart() -> None:
    key = NodePublic(b"k" * 32)
    sources = [SOURCE, SOURCE.addr, UdpPath(AddrPort("192.0.2.7", 8)), DerpPath(1, key), DerpPath(2, key)]
    assert len({encode_source(source) for source in sources}) == len(sources)
