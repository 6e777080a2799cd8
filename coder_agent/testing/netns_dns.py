"""A DNS server for a laboratory, which tells what it was asked.

    python -m coder_agent.testing.netns_dns ADDRESS NAME=IPV4…

Prints ``listening`` once it listens, then a line ``asked <name>`` for each query. Names that it was not given have the
address OUTSIDE, so that only who asks decides whether somebody goes there. Layout: RFC 1035 §4.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Mapping

OUTSIDE = "198.51.100.53"
"""An address of the documentation network TEST-NET-2 (RFC 5737)."""
A, INTERNET = 1, 1
ANSWER, POINTER, LIFE = 0x8580, 0xC00C, 60
"""Flags of an authoritative answer; a name that points to the question's; seconds to keep it."""
HEADER = 12


def question(query: bytes) -> tuple[str, int, int]:
    """Name, type and the end of the one question in a query. Raises IndexError, struct.error for junk."""
    labels, at = [], HEADER
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length].decode("latin-1"))
        at += 1 + length
    (kind,) = struct.unpack_from("!H", query, at + 1)
    return ".".join(labels).lower(), kind, at + 5


def answer(query: bytes, known: Mapping[str, str]) -> tuple[str, bytes]:
    """The name that was asked for, and the answer: an address for A, none for all else."""
    name, kind, end = question(query)
    found = known.get(name, OUTSIDE) if kind == A else None
    head = query[:2] + struct.pack("!HHHHH", ANSWER, 1, 1 if found else 0, 0, 0) + query[HEADER:end]
    if found is None:
        return name, head
    return name, head + struct.pack("!HHHLH", POINTER, A, INTERNET, LIFE, 4) + socket.inet_aton(found)


def main(address: str, *names: str) -> None:
    """Answer until stopped."""
    known = dict(name.split("=", 1) for name in names)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((address, 53))
        print("listening", flush=True)
        while True:
            query, source = sock.recvfrom(2048)
            try:
                name, reply = answer(query, known)
            except (IndexError, struct.error):
                continue
            print("asked", name, flush=True)
            sock.sendto(reply, source)


if __name__ == "__main__":
    main(*sys.argv[1:])
