"""SSDP: which UPnP devices are on this network? Source: UPnP Device Architecture 1.1 §1; RFC 9110 for the head.

A search is an HTTP request in a datagram, an answer an HTTP response in one, an announcement a NOTIFY request. Only
answers about an internet gateway device count. Nothing of what they say is believed but the path of LOCATION: who is
contacted is decided by `igd.on_gateway`.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..effects import Dropped
from .natpmp import Datagram

PORT = 1900
GROUP = "239.255.255.250"
ALL = "ssdp:all"
GATEWAY_DEVICE = "urn:schemas-upnp-org:device:InternetGatewayDevice:1"
WAIT = 2
"""MX: seconds over which devices may spread their answers. Source: tailscale net/portmapper/upnp.go."""
MAX_SIZE = 2048
"""A head of a few lines; longer datagrams are not read."""
MAX_VALUE = 512
"""Longest LOCATION, SERVER or USN that is kept."""
_MARK = ":InternetGatewayDevice:"


@dataclass(frozen=True, slots=True)
class Answer:
    """A gateway device says where its description is. `server` and `usn` tell devices apart; `boot` as in Notice."""

    location: str
    server: str = ""
    usn: str = ""
    boot: str = ""


@dataclass(frozen=True, slots=True)
class Notice:
    """A gateway device came (`alive`) or goes. `boot` is another one after each restart; "" if it does not say."""

    alive: bool
    boot: str


def encode_search(target: str) -> bytes:
    """Ask for devices of one kind (`ALL` or a device type)."""
    lines = (
        "M-SEARCH * HTTP/1.1",
        f"HOST: {GROUP}:{PORT}",
        f"ST: {target}",
        'MAN: "ssdp:discover"',
        f"MX: {WAIT}",
        "",
        "",
    )
    return "\r\n".join(lines).encode()


def parse_answer(data: Datagram) -> Answer | Dropped:
    """Read the answer to a search."""
    head = _head(data)
    if isinstance(head, Dropped):
        return head
    start, fields = head
    version, _, status = start.partition(" ")
    if not version.startswith("HTTP/1.") or not status.startswith("200"):
        return Dropped("ssdp-not-an-answer")
    if not any(_MARK in fields.get(name, "") for name in ("st", "usn")):
        return Dropped("ssdp-not-a-gateway")
    if not fields.get("location"):
        return Dropped("ssdp-no-location")
    return Answer(fields["location"], fields.get("server", ""), fields.get("usn", ""), _boot(fields))


def parse_notice(data: Datagram) -> Notice | Dropped:
    """Read an announcement that a device sends to the group by itself."""
    head = _head(data)
    if isinstance(head, Dropped):
        return head
    start, fields = head
    if not start.startswith("NOTIFY * HTTP/1."):
        return Dropped("ssdp-not-a-notice")
    if not any(_MARK in fields.get(name, "") for name in ("nt", "usn")):
        return Dropped("ssdp-not-a-gateway")
    return Notice(fields.get("nts") != "ssdp:byebye", _boot(fields))


def distinct(answers: list[Answer]) -> list[Answer]:
    """One answer per device, IGD:2 before IGD:1. Source: tailscale net/portmapper/upnp.go (getUPnPClient)."""
    ordered = sorted(answers, key=lambda answer: (answer.location, answer.server))
    ordered.sort(key=lambda answer: answer.usn, reverse=True)
    return list({(answer.location, answer.server): answer for answer in reversed(ordered)}.values())[::-1]


def _boot(fields: dict[str, str]) -> str:
    """BOOTID of version 1.1, or what miniupnpd and others said before. Source: UPnP Device Architecture 1.1 §1.2.2."""
    return fields.get("bootid.upnp.org") or fields.get("01-nls", "")


def _head(data: Datagram) -> tuple[str, dict[str, str]] | Dropped:
    """The start line and the fields; of a repeated field the first."""
    if len(data) > MAX_SIZE:
        return Dropped("ssdp-too-long")
    try:
        text = bytes(data).decode("ascii")
    except UnicodeDecodeError:
        return Dropped("ssdp-not-text")
    start, *lines = text.split("\r\n\r\n", 1)[0].split("\r\n")
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        value = value.strip()
        if colon and len(value) <= MAX_VALUE:
            fields.setdefault(name.strip().lower(), value)
    return start, fields
