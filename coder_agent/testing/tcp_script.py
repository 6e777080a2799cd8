"""Transcripts of TCP: one stack against segments written by hand, with a fixed clock and relative numbers.

    script = TcpScript()
    connection = script.dial()
    assert script.sent() == ["S 0 win 65535 <mss 1220,sack,shift 8>"]
    script.say("S.", ack=1)
    assert script.sent() == [". 1 ack 1 win 2048"]

Sequence numbers are relative to each side's first; ours starts shortly before 2**32, so that every script wraps.
"""

from __future__ import annotations

import struct
from ipaddress import IPv6Address, IPv6Network

from ..base.burst import Burst
from ..protocols.netstack import Stack, StackConfig, SynRequest, TcpConnection, ip, segments
from ..protocols.netstack.merger import ScalarMerger, payload_size
from ..protocols.netstack.segments import Options

US = IPv6Address("fd7a:115c:a1e0::1")
THEM = IPv6Address("fd7a:115c:a1e0::2")
OUR_START = 0xFFFFFF00
THEIR_START = 0xFFFFF000
THEIR_PORT = 7000
SYN_OPTIONS = segments.syn_options(Options(mss=1220, shift=8, sack_permitted=True))

_FLAGS = (("S", segments.SYN), ("F", segments.FIN), ("R", segments.RST), ("P", segments.PSH), (".", segments.ACK))


class TcpScript:
    """`stack` with the address `US`; the script plays its peer `THEM`."""

    def __init__(self, config: StackConfig | None = None) -> None:
        self.now = 100.0
        self.stack = Stack(config or StackConfig(keepalive_idle=0), rng=self._random, vector=False)
        self.stack.add_address(US)
        self.stack.set_peer("them", [IPv6Network(THEM)])
        self.stack.on_syn = self._on_syn
        self.requests: list[SynRequest] = []
        self.port = 0
        """Our port; learned from what we send, or set by `knock`."""
        self.payload = b""
        """What our last data segments carried."""

    def dial(self) -> TcpConnection:
        """We connect to them."""
        return self.stack.connect(THEM, THEIR_PORT, self.now)

    def dialled(self, *, window: int = 0xFFFF, options: bytes = SYN_OPTIONS) -> TcpConnection:
        """We connect to them, and the handshake is over."""
        connection = self.dial()
        self.sent()
        self.say("S.", ack=1, window=window, options=options)
        self.sent()
        return connection

    def knock(self, port: int = 80, *, options: bytes = SYN_OPTIONS) -> None:
        """They connect to `port` of ours."""
        self.port = port
        self.say("S", options=options)

    def say(
        self,
        flags: str,
        seq: int | None = None,
        ack: int | None = None,
        data: bytes = b"",
        *,
        window: int = 0xFFFF,
        options: bytes = b"",
    ) -> None:
        """They send a segment; `seq` defaults to 0 for a SYN and 1 otherwise."""
        bits = sum(bit for letter, bit in _FLAGS if letter in flags)
        number = (0 if "S" in flags else 1) if seq is None else seq
        head = struct.pack(
            ">HHIIHHHH",
            THEIR_PORT,
            self.port,
            (THEIR_START + number) & 0xFFFFFFFF,
            0 if ack is None else (OUR_START + ack) & 0xFFFFFFFF,
            (20 + len(options)) // 4 << 12 | bits,
            window,
            0,
            0,
        )
        packet = ip.packet(ip.TCP, THEM.packed, US.packed, head + options + data, checksum_at=16)
        self.stack.receive("them", Burst.of(packet), self.now)

    def sent(self) -> list[str]:
        """What we send now, in words."""
        lines: list[str] = []
        self.payload = b""
        while self.stack.has_output():
            for _, burst in self.stack.transmit(self.now):
                lines += [self._describe(Burst.of(row)) for row in burst.rows()]
        return lines

    def wait(self, seconds: float) -> list[str]:
        """Let time pass, timers fire when due; what we send meanwhile, each line with its time if `seconds` > 0."""
        end = self.now + seconds
        lines = self.sent()
        while (at := self.stack.deadline()) is not None and at <= end:
            self.now = max(self.now, at)
            self.stack.on_timer(self.now)
            lines += [f"{self.now - end + seconds:.2f} {line}" for line in self.sent()]
        self.now = end
        return lines

    def _describe(self, burst: Burst) -> str:
        row = burst.buffer
        assert ip.verify(row, payload_size(burst, 0), row[6]), "wrong checksum"
        if row[6] != ip.TCP:
            return f"protocol {row[6]}"
        parsed = segments.parse(row, ip.HEADER_SIZE, payload_size(burst, 0))
        assert parsed is not None
        segment, head = parsed
        ScalarMerger().take(burst, 0, segment, head)
        self.port = int.from_bytes(row[40:42], "big")
        self.payload += b"".join(segment.chunks)
        flags = "".join(letter for letter, bit in _FLAGS if segment.flags & bit)
        seq = (segment.seq - OUR_START) & 0xFFFFFFFF
        span = f"{seq}:{seq + segment.size}" if segment.size else f"{seq}"
        ack = f" ack {(segment.ack - THEIR_START) & 0xFFFFFFFF}" if segment.flags & segments.ACK else ""
        options = _options(segment.options)
        return f"{flags} {span}{ack} win {segment.window}{options}"

    def _random(self, size: int) -> bytes:
        return OUR_START.to_bytes(4, "big")[:size]

    def _on_syn(self, request: SynRequest) -> None:
        self.requests.append(request)


def _options(options: Options) -> str:
    words = []
    if options.mss is not None:
        words.append(f"mss {options.mss}")
    if options.sack_permitted:
        words.append("sack")
    if options.timestamp is not None:
        words.append(f"stamp echo {options.timestamp[1]}")
    if options.shift is not None:
        words.append(f"shift {options.shift}")
    for start, end in options.sacks:
        words.append(f"{(start - THEIR_START) & 0xFFFFFFFF}-{(end - THEIR_START) & 0xFFFFFFFF}")
    return f" <{','.join(words)}>" if words else ""
