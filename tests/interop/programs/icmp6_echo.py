"""What ping6 does, for machines without it: one ICMPv6 echo request of each size, by a raw socket. Arguments: address,
then payload sizes. Prints a line for each answer; ends with 1 if one does not come, or comes back changed."""

import os
import socket
import struct
import sys

ECHO_REQUEST, ECHO_REPLY = 128, 129
PATIENCE = 60.0

with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as sock:
    sock.settimeout(PATIENCE)
    sock.connect((sys.argv[1], 0))
    for sequence, size in enumerate(map(int, sys.argv[2:])):
        payload = os.urandom(size)
        sock.send(struct.pack(">BBHHH", ECHO_REQUEST, 0, 0, 0x1234, sequence) + payload)  # the kernel adds the sum
        while (answer := sock.recv(2048))[0] != ECHO_REPLY:
            pass  # our own request, neighbour discovery
        if answer[4:] != struct.pack(">HH", 0x1234, sequence) + payload:
            sys.exit(f"{size} bytes came back changed")
        print("echo of", size)
