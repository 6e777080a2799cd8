"""A network laboratory in one process: deterministic, under virtual time, with the real cores in it.

Read first: `topology.py` (what a network is, as data) and `laboratory.py` (how one is run). `places.py` has the ten
places of the NAT matrix, `fixes.py` what a user could change, `encoding.py` the JSON form. Under them lie `network.py`
(packets, hop by hop), `nat.py`, `flows.py` (firewalls), `lane.py` (links), `relays.py` and `clock.py`. `host.py` is a
node with a path core only, `world.py` one with engine, WireGuard and TCP.

What is not modelled: fragmentation (a packet beyond the MTU vanishes, as with DF set) and ICMP.
"""

from .fixes import (
    with_direct_allowed,
    with_endpoint_independent_nat,
    with_forwarded_port,
    with_hairpin,
    with_ipv6,
    with_larger_mtu,
    with_open_firewall,
    with_port_mapping,
    with_stun,
    with_udp_allowed,
)
from .host import SimHost
from .laboratory import Lab
from .network import Network
from .places import PLACES, Pair, all_pairs, topology_of
from .topology import (
    INTERNET,
    LAN,
    OPEN,
    STATEFUL,
    Cut,
    Filtering,
    Firewall,
    Forward,
    Host,
    Interface,
    LinkRules,
    Mapping,
    NatRules,
    Ports,
    Region,
    Router,
    Topology,
)

__all__ = [
    "INTERNET",
    "LAN",
    "OPEN",
    "PLACES",
    "STATEFUL",
    "Cut",
    "Filtering",
    "Firewall",
    "Forward",
    "Host",
    "Interface",
    "Lab",
    "LinkRules",
    "Mapping",
    "NatRules",
    "Network",
    "Pair",
    "Ports",
    "Region",
    "Router",
    "SimHost",
    "Topology",
    "all_pairs",
    "topology_of",
    "with_direct_allowed",
    "with_endpoint_independent_nat",
    "with_forwarded_port",
    "with_hairpin",
    "with_ipv6",
    "with_larger_mtu",
    "with_open_firewall",
    "with_port_mapping",
    "with_stun",
    "with_udp_allowed",
]
