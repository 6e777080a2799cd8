"""A network check in words. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from coder_agent.base.addresses import AddrPort
from coder_agent.base.nat_facts import SAFE_MTU
from coder_agent.cli.durations import format_latency

from ..plan import stun_port
from .report import NetcheckReport, NodeReport

Row = tuple[str, str]

_NAMES = {"pmp": "NAT-PMP", "pcp": "PCP", "upnp": "UPnP"}


def checks(report: NetcheckReport) -> list[Row]:
    """What was checked, and what came of it in plain words."""
    return [
        ("UDP", _udp(report)),
        ("IPv4", _family(report, report.facts.ipv4, report.facts.public_v4, is_ipv6=False)),
        ("IPv6", _family(report, report.facts.ipv6, report.facts.public_v6, is_ipv6=True)),
        ("NAT", nat(report)),
        ("port mapping", _port_mapping(report)),
        ("captive portal", _captive(report)),
        ("home relay", _home(report)),
    ]


def warnings(report: NetcheckReport) -> Iterator[str]:
    """What should be mended, one line each, with what to do."""
    if report.nodes and not report.reachable:
        yield "nothing answers, neither over UDP nor over HTTPS: check the connection, the firewall and the proxy"
    elif any(not n.node.stun_only for n in report.nodes) and not report.relayed:
        yield "no relay carries packets: tunnels need one to begin with, even those that become direct"
    if report.facts.udp is False and report.reachable:
        yield "UDP is blocked: connections will be relayed; let UDP out to get direct ones"
    if report.facts.mapping_varies:
        yield (
            "hard NAT: direct connections need an easier network on the other side; a port forward on "
            "the router helps, or UPnP, NAT-PMP or PCP"
        )
    if report.facts.captive_portal:
        yield "a captive portal answers for others: open any page in a browser and sign in"
    for interface in report.interfaces:
        if interface.too_small:
            yield (
                f"interface {interface.name} has an MTU of {interface.mtu}, below {SAFE_MTU}: tunnel packets "
                "through it are fragmented or lost; raise it if you can"
            )
    if any(reason != "stun-unknown-txid" for reason in report.dropped):
        told = ", ".join(f"{reason} {count}×" for reason, count in sorted(report.dropped.items()))
        yield f"some STUN answers were not believed ({told}): a server is wrong, or somebody in between rewrites them"


def nat(report: NetcheckReport) -> str:
    """The kind of NAT, in words."""
    facts = report.facts
    public = facts.public_v4
    if public is not None and public.host in _own_addresses(report):
        return "none for IPv4: the outside sees this machine's own address"
    if facts.mapping_varies is None:
        return "not known: that takes answers from two STUN servers over IPv4"
    if not facts.mapping_varies:
        return "easy: every destination sees the same address and port"
    pattern = f", {abs(facts.port_step)} apart, which can be guessed" if facts.port_step else ", without a pattern"
    return f"hard (symmetric): each destination sees another port{pattern}"


def interface_rows(report: NetcheckReport) -> list[tuple[str, str, str]]:
    """Name, MTU, addresses."""
    return [
        (each.name, f"{each.mtu or '?'}{' (low)' if each.too_small else ''}", ", ".join(each.addresses))
        for each in report.interfaces
    ]


def region_rows(report: NetcheckReport) -> list[tuple[str, str, str, str, str, str]]:
    """Region, UDP over IPv4, UDP over IPv6, relay, home, remark: the nearest first."""
    order = sorted(
        report.derp_map.regions,
        key=lambda region: (region != report.home, report.latency(region) or float("inf"), region),
    )
    return [_region_row(report, region) for region in order]


def _region_row(report: NetcheckReport, number: int) -> tuple[str, str, str, str, str, str]:
    region = report.derp_map.regions[number]
    nodes = report.of_region(number)
    has_stun = any(stun_port(node.node) is not None for node in nodes)
    cells = []
    for family in ("v4", "v6"):
        latency = report.latency(number, family)
        cells.append(format_latency(latency) if latency is not None else "-" if has_stun else "no STUN")
    remarks = dict.fromkeys(remark for node in nodes for remark in _remarks(node, report))
    name = region.region_name or region.region_code or str(number)
    return f"{name} ({number})", *cells, _relay(nodes), "home" if number == report.home else "", "; ".join(remarks)  # type: ignore[return-value]  # two families


def _relay(nodes: tuple[NodeReport, ...]) -> str:
    checks = [node.relay for node in nodes if node.relay is not None]
    if not checks:
        return "STUN only"
    working = [check for check in checks if check.exchanged]
    if not working:
        return "no"
    how = "WebSocket" if all(check.uses_websocket for check in working) else "HTTPS"
    latency = min((c.latency for c in checks if c.latency is not None), default=None)
    return "works" if latency is None else f"{format_latency(latency)} ({how})"


def _remarks(node: NodeReport, report: NetcheckReport) -> Iterator[str]:
    """Why it, or a part of it, could not be reached."""
    if node.relay is not None and node.relay.error:
        yield node.relay.error + (f" ({node.relay.hint})" if node.relay.hint else "")
    if node.stun_error and report.facts.udp is not False:  # else it is all of them, and said above
        yield node.stun_error


def _udp(report: NetcheckReport) -> str:
    if report.facts.udp:
        return "works"
    if report.facts.udp is None:
        return "not checked: the relay map has no STUN server for this machine's addresses"
    return "blocked, or nobody answers: no STUN server was reached"


def _family(report: NetcheckReport, works: bool | None, public: AddrPort | None, *, is_ipv6: bool) -> str:
    if works:
        return f"works; seen from outside as {public}" if public is not None else "works, but not over UDP"
    if not any((":" in address) == is_ipv6 for address in _own_addresses(report)):
        return "this machine has no such address"
    return "no answer" if works is False else "not checked: no server of the relay map has such an address"


def _own_addresses(report: NetcheckReport) -> set[str]:
    texts = (text for each in report.interfaces if not each.is_loopback for text in each.addresses)
    return {text.partition("/")[0] for text in texts if not text.startswith("fe80:")}


def _port_mapping(report: NetcheckReport) -> str:
    if report.facts.gateway_asked is None:
        return "not checked"
    found = [name for key, name in _NAMES.items() if key in report.facts.port_mapping]
    return ", ".join(found) if found else f"none: the gateway answers none of {', '.join(_NAMES.values())}"


def _captive(report: NetcheckReport) -> str:
    answers = {True: "yes: somebody answers in the relays' name", False: "no"}
    if report.facts.captive_portal is None:
        return "not checked: no relay serves port 80 for it"
    return answers[report.facts.captive_portal]


def _home(report: NetcheckReport) -> str:
    if not report.home:
        return "none: no relay was measured"
    region = report.derp_map.regions[report.home]
    latency = report.latency(report.home)
    name = region.region_name or region.region_code or str(report.home)
    return name if latency is None else f"{name} ({format_latency(latency)})"
