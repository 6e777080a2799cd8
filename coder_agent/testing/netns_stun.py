"""A STUN server at several addresses, for a laboratory: python -m coder_agent.testing.netns_stun 45.67.89.11:3478 …

Each address has a socket of its own, so that answers come from where the question went. Says "answering" when ready.
"""

from __future__ import annotations

import selectors
import socket
import sys

from ..base.addresses import AddrPort
from ..protocols.stun import respond

_BUFFER = 2048


def main(addresses: list[str]) -> None:
    """Answer for ever."""
    selector = selectors.DefaultSelector()
    for text in addresses:
        address = AddrPort.parse(text)
        made = socket.socket(socket.AF_INET6 if address.is_ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((address.host, address.port))
        selector.register(made, selectors.EVENT_READ, made)
    print("answering", flush=True)
    while True:
        for key, _ in selector.select():
            server: socket.socket = key.data
            packet, source = server.recvfrom(_BUFFER)
            reply = respond(packet, AddrPort.of(str(source[0]).partition("%")[0], int(source[1])))
            if reply is not None:
                server.sendto(reply, source)


if __name__ == "__main__":
    main(sys.argv[1:])
