"""A neighbour that lies: multicasts announcements of our type until SIGTERM.

Arguments: our address on the LAN, and the instance names to lie about. Says {"event": "flooding"} once 20,000 records
are out.
"""

import itertools
import json
import random
import socket
import struct
import sys
import time

GROUP = ("224.0.0.251", 5353)
PTR, TXT, A = 12, 16, 1
TYPE = b"\x0e_coder-tailnet\x04_udp\x05local\x00"


def label(text: bytes) -> bytes:
    return bytes([len(text)]) + text


def record(name: bytes, kind: int, data: bytes) -> bytes:
    return name + struct.pack(">HHIH", kind, 1, 4500, len(data)) + data


def packet(*records: bytes) -> bytes:
    return struct.pack(">HHHHHH", 0, 0x8400, 0, len(records), 0, 0) + b"".join(records)


def strangers(rng: random.Random) -> bytes:
    """Five instances that nobody knows, each with a TXT record that fills a packet's share."""
    names = [label(rng.randbytes(16).hex().encode()) + TYPE for _ in range(5)]
    text = b"".join(label(rng.randbytes(200)) for _ in range(6))
    return packet(*(record(TYPE, PTR, name) for name in names), *(record(name, TXT, text) for name in names))


def lies(rng: random.Random, instance: str) -> bytes:
    """A known instance at sixty addresses that are not on this LAN."""
    name, host = label(instance.encode()) + TYPE, label(instance.encode()) + b"\x05local\x00"
    addresses = [record(host, A, bytes([198, 51, 100, rng.randrange(256)])) for _ in range(60)]
    return packet(record(TYPE, PTR, name), *addresses)


def main(address: str, instances: list[str]) -> None:
    rng = random.Random(1)
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
    sock.bind((address, 5353))
    for sent in itertools.count():
        sock.sendto(strangers(rng), GROUP)
        sock.sendto(lies(rng, instances[sent % len(instances)]), GROUP)
        sock.sendto(rng.randbytes(rng.randrange(1400)), GROUP)
        if sent == 2000:
            print(json.dumps({"event": "flooding"}), flush=True)
        time.sleep(0.002)


main(sys.argv[1], sys.argv[2:])
