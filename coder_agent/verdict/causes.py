"""Why packets go the way they go: one stable code each.

The values are an interface: they stand in `--output json`, in the server's API, in report files and in
docs/why-relayed.md. A value is never given another meaning; new ones may come.
"""

from __future__ import annotations

from enum import StrEnum


class Cause(StrEnum):
    """The primary cause of a verdict. `here` is the end that judges, `there` its peer."""

    # ---------------------------------------------------------------- direct, by what means
    DIRECT_LAN = "direct_lan"
    """Over a private address: both ends share a network."""
    DIRECT_IPV6 = "direct_ipv6"
    """Over IPv6: no address translation in between."""
    DIRECT_PUBLIC = "direct_public"
    """To a public address of the other machine itself, or from one."""
    DIRECT_PUNCHED = "direct_punched"
    """Through a NAT that both ends opened by pinging each other."""
    DIRECT_PORT_MAPPED = "direct_port_mapped"
    """Through a port that a router opened for us (NAT-PMP, PCP, UPnP) or that somebody forwards."""
    DIRECT_BIRTHDAY = "direct_birthday"
    """Through a port of a symmetric NAT that was found by trying many, or foreseen."""

    # ---------------------------------------------------------------- relayed by somebody's decision
    BLOCKED_BY_RULE_HERE = "blocked_by_rule_here"
    BLOCKED_BY_RULE_THERE = "blocked_by_rule_there"
    BLOCKED_BY_DEPLOYMENT = "blocked_by_deployment"
    QUALITY_PREFERS_RELAY = "quality_prefers_relay"
    """A direct path works, but measures worse than the relay."""

    # ---------------------------------------------------------------- relayed because of a network
    UDP_BLOCKED_HERE = "udp_blocked_here"
    UDP_BLOCKED_THERE = "udp_blocked_there"
    UDP_BLOCKED_BOTH = "udp_blocked_both"
    CAPTIVE_PORTAL = "captive_portal"
    """This network lets nothing through before somebody has logged in to it."""
    NO_COMMON_FAMILY = "no_common_family"
    """One end has only IPv4, the other only IPv6."""
    LOW_MTU_HERE = "low_mtu_here"
    LOW_MTU_THERE = "low_mtu_there"
    LOW_MTU_PATH = "low_mtu_path"
    """Small packets pass, full-size ones vanish."""
    NO_STUN = "no_stun"
    """Nobody tells the nodes their public addresses."""
    PEER_PUBLISHES_NOTHING = "peer_publishes_nothing"
    SAME_NAT_NO_HAIRPIN = "same_nat_no_hairpin"
    """Both ends sit behind one NAT, in separate networks, and it does not turn their packets back inside."""
    HARD_NAT_BOTH = "hard_nat_both"
    HARD_NAT_HERE_STRICT_THERE = "hard_nat_here_strict_there"
    HARD_NAT_THERE_STRICT_HERE = "hard_nat_there_strict_here"
    UDP_FILTERED_BETWEEN = "udp_filtered_between"
    """Each end reaches STUN servers, but no packet of either reaches the other."""

    # ---------------------------------------------------------------- not settled, not known
    STILL_SEARCHING = "still_searching"
    BIRTHDAY_RUNNING = "birthday_running"
    NO_RELAY_SIGNALLING = "no_relay_signalling"
    """There is no relay connection, over which the ends would agree on when to ping."""
    PEER_GONE = "peer_gone"
    PEER_IS_STOCK_UNKNOWN = "peer_is_stock_unknown"
    """The peer's program does not tell about its network, and this end's explains nothing."""
    UNKNOWN = "unknown"

    @property
    def is_direct(self) -> bool:
        """True if this is a way of being direct."""
        return self.value.startswith("direct_")
