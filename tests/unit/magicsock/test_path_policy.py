"""betterAddr as a table, and the laws that any policy should keep."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coder_agent.base.addresses import AddrPort
from coder_agent.base.paths import PathQuality
from coder_agent.magicsock.policy import DefaultPathPolicy, address_points

PUBLIC, OTHER_PUBLIC = "198.51.100.1", "203.0.113.9"
PRIVATE, V6, ULA = "10.0.0.2", "2001:db8::1", "fd00::2"
policy = DefaultPathPolicy()


def quality(host: str, milliseconds: float, wire_mtu: int = 0) -> PathQuality:
    return PathQuality(AddrPort(host, 41641), milliseconds / 1000, wire_mtu)


@pytest.mark.parametrize(
    ("a", "b", "better"),
    [
        pytest.param(quality(PUBLIC, 100), quality(OTHER_PUBLIC, 100), False, id="equal: keep"),
        pytest.param(quality(PUBLIC, 90), quality(OTHER_PUBLIC, 100), True, id="10 % faster"),
        pytest.param(quality(PUBLIC, 99), quality(OTHER_PUBLIC, 100), False, id="1 % faster is noise"),
        pytest.param(quality(PUBLIC, 98), quality(OTHER_PUBLIC, 100), True, id="2 % faster is not"),
        pytest.param(quality(PUBLIC, 100), quality(OTHER_PUBLIC, 90), False, id="slower"),
        pytest.param(quality(V6, 100), quality(PUBLIC, 100), True, id="IPv6 at equal latency"),
        pytest.param(quality(PUBLIC, 100), quality(V6, 100), False, id="IPv4 against IPv6"),
        pytest.param(quality(PRIVATE, 120), quality(PUBLIC, 100), True, id="private 20 % slower: 20 to 17"),
        pytest.param(quality(PUBLIC, 50), quality(PRIVATE, 60), False, id="public 17 % faster: 17 to 20"),
        pytest.param(quality(PUBLIC, 40), quality(PRIVATE, 60), True, id="public a third faster: 34 to 20"),
        pytest.param(quality("127.0.0.1", 100), quality(PRIVATE, 80), True, id="loopback 50 against 20 + 20"),
        pytest.param(quality("169.254.1.1", 100), quality(PRIVATE, 100), True, id="link-local 30 against 20"),
        pytest.param(quality(ULA, 100), quality(PRIVATE, 100), True, id="private IPv6 30 against 20"),
        pytest.param(quality(PUBLIC, 0), quality(OTHER_PUBLIC, 0), False, id="no latency at all"),
        pytest.param(quality(PUBLIC, 0), quality(OTHER_PUBLIC, 5), True, id="zero latency"),
        pytest.param(quality(PUBLIC, 900, 1500), quality(PUBLIC, 1, 1338), True, id="same address, larger packets"),
        pytest.param(quality(PUBLIC, 1, 1338), quality(PUBLIC, 900, 1338), False, id="same address, same size"),
        pytest.param(quality(PUBLIC, 1, 0), quality(PUBLIC, 900, 1338), False, id="same address, smaller"),
        pytest.param(quality(PUBLIC, 5000), None, True, id="anything beats nothing"),
    ],
)
def test_better(a: PathQuality, b: PathQuality | None, better: bool) -> None:
    assert policy.better(a, b) is better


qualities = st.builds(
    quality,
    st.sampled_from([PUBLIC, OTHER_PUBLIC, PRIVATE, V6, ULA, "127.0.0.1", "::1", "fe80::1"]),
    st.floats(0, 5000),
    st.sampled_from([0, 1338, 1500]),
)


@given(qualities, qualities)
def test_two_paths_never_both_beat_each_other(a: PathQuality, b: PathQuality) -> None:
    assert not (policy.better(a, b) and policy.better(b, a))


@given(qualities)
def test_no_path_beats_itself(a: PathQuality) -> None:
    assert not policy.better(a, a)


@pytest.mark.parametrize(
    ("host", "points"),
    [
        ("198.51.100.1", 0),  # documentation ranges are "private" to the ipaddress module, but not here
        ("2001:db8::1", 10),
        ("192.168.1.1", 20),
        ("172.16.0.1", 20),
        ("172.32.0.1", 0),
        ("fd7a:115c:a1e0::1", 30),
        ("fe80::1", 40),
        ("::1", 60),
        ("127.0.0.1", 50),
    ],
)
def test_points(host: str, points: int) -> None:
    assert address_points(host) == points
