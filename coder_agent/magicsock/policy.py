"""Which of two direct paths is better: Tailscale's betterAddr, as a policy that a plugin may replace.

Source: tailscale wgengine/magicsock/endpoint.go (betterAddr). Peer-relayed (Geneve) paths are left out.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address

from ..base.paths import PathQuality, RelayQuality

LOOPBACK_POINTS = 50
LINK_LOCAL_POINTS = 30
PRIVATE_POINTS = 20
IPV6_POINTS = 10
"""A path inside the house beats one that leaves it, even if it measures a little slower: percent of latency."""

BAD_LOSS = 0.05
"""Share of lost bytes above which a direct path with a backlog is compared with the relay. A bulk transfer makes 1 % of
loss on a healthy narrow path by itself (that is how CUBIC finds its limit); a policer makes 10 % and more."""
RELAY_MUST_GAIN = 1.5
"""The relay must be this many times as fast: it costs the deployment's bandwidth."""
DIRECT_MAY_LAG = 0.8
"""The direct path is taken back when it has at least this share of the relay's speed."""
LATENCY_FACTOR, LATENCY_MARGIN = 2.0, 0.1
"""A direct path slower than that many times the relay plus that many seconds loses, too…"""
LATENCY_FACTOR_BACK, LATENCY_MARGIN_BACK = 1.5, 0.05
"""…and must be this much better to win back. Ours: a route like that goes around the world or through a full queue."""

_PRIVATE_V4 = tuple(map(IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")))  # RFC 1918
_ULA = IPv6Network("fc00::/7")  # RFC 4193; not ipaddress.is_private, which counts documentation ranges too


@lru_cache(maxsize=1024)
def address_points(host: str) -> int:
    """The points an address gets for where it lies."""
    ip = ip_address(host)
    points = IPV6_POINTS if ip.version == 6 else 0
    if ip.is_loopback:
        return points + LOOPBACK_POINTS
    if ip.is_link_local:
        return points + LINK_LOCAL_POINTS
    private = ip in _ULA if ip.version == 6 else any(ip in net for net in _PRIVATE_V4)
    return points + PRIVATE_POINTS if private else points


class DefaultPathPolicy:
    """Latency in percent plus points for nearness; 1 % of hysteresis against flapping."""

    def better(self, a: PathQuality, b: PathQuality | None) -> bool:
        """True if `a` should replace `b`."""
        if b is None:
            return True
        if a.path == b.path:
            return a.wire_mtu > b.wire_mtu
        a_points, b_points = address_points(a.addr.host), address_points(b.addr.host)
        # Whole percents of integer nanoseconds: the rounding is part of the rule.
        a_ns, b_ns = round(a.latency * 1e9), round(b.latency * 1e9)
        if a_ns > b_ns:
            b_points += 100 - 100 * b_ns // a_ns
        elif b_ns > 0:
            a_points += 100 - 100 * a_ns // b_ns
        if a_points <= 1 and b_points == 0:
            return False
        return a_points > b_points

    def prefers_relay(self, direct: PathQuality, relay: RelayQuality, *, relayed: bool, backlog: bool) -> bool:
        """True if the relay should carry data although a direct path works (hooks: CarrierPolicy)."""
        if self._is_roundabout(direct, relay, relayed=relayed):
            return True
        if relayed:
            if direct.goodput is None:
                return False  # long ago: try it again
            slow = backlog and relay.goodput is not None
            return not slow or direct.goodput < DIRECT_MAY_LAG * (relay.goodput or 0.0)
        if not backlog or direct.loss is None or direct.loss < BAD_LOSS:
            return False
        return relay.goodput is None or relay.goodput >= RELAY_MUST_GAIN * (direct.goodput or 0.0)

    @staticmethod
    def _is_roundabout(direct: PathQuality, relay: RelayQuality, *, relayed: bool) -> bool:
        if relay.latency is None:
            return False
        factor, margin = (LATENCY_FACTOR_BACK, LATENCY_MARGIN_BACK) if relayed else (LATENCY_FACTOR, LATENCY_MARGIN)
        return direct.latency > factor * relay.latency + margin
