"""Settings of the stack."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StackConfig:
    """Sizes in bytes, times in seconds."""

    mtu: int = 1280
    """Largest inner packet to a peer of which nothing else is known. 1280 is what strangers' tunnels carry."""
    accepted_mtu: int = 1280
    """Largest inner packet that we take: our SYNs say so (the MSS option), and peers of ours learn it by disco. Never
    smaller than `mtu`. What is sent is another matter: see `Stack.set_mtu`."""
    receive_window: int = 4 << 20
    """The most the receive window grows to; gVisor's limit too."""
    initial_window: int = 512 << 10
    """The receive window at the start. More would let slow start overrun a UDP socket's buffer."""
    send_buffer: int = 8 << 20
    """High-water mark of unacknowledged and unsent bytes of a connection; writable again below half of it."""
    timestamps: bool = False
    """Offer RFC 7323 timestamps in our SYN; a peer's offer is always accepted.

    Off because WireGuard already does what they are for: its replay window refuses anything older than 8192 packets
    (about 10 MB, far from the 2 GiB at which sequence numbers become ambiguous, so PAWS has nothing to protect), and
    round trips are measured from our own record of send times. They cost 12 bytes of each segment.
    """
    verify_checksums: bool = False
    """Verify TCP, UDP and ICMPv6 checksums. Inside WireGuard Poly1305 covers a peer's own segments; needed for raw
    packets (TUN, tests) and for peers that forward for others. Costs about 13 % of the throughput."""
    keepalive_idle: float = 30.0
    """Silence after which an established connection is probed; 0 = never."""
    keepalive_interval: float = 10.0
    keepalive_count: int = 6
    """Unanswered probes that often; then…"""
    keepalive_slow: float = 120.0
    """…probes this far apart, until…"""
    keepalive_limit: float = 7200.0
    """…a peer unheard for so long counts as dead: a laptop that sleeps for an hour keeps its shells, as with the time
    that RFC 1122 §4.2.3.6 asks for. Who knows better, the coordinator, says so earlier."""
    user_timeout: float = 120.0
    """Without progress for so long, data in flight fails the connection (RFC 9293 §3.8.3 R2)."""
    ack_delay: float = 0.0
    """How long the acknowledgement of less than a segment may wait for data to ride on; 0 = it does not. Bulk is not
    touched by it. RFC 9293 §3.8.6.3 allows 0.5 s; senders, our own among them (sender.py), expect some 40 ms."""
    connect_timeout: float = 60.0
    """The same for the handshake."""
    max_rto: float = 2.0
    """Cap of the backed-off time-out (never below the measured one). RFC 6298 would go to 60 s; a tunnel that
    returns after a 7 s cut must not wait twice that, and one packet in 2 s does not congest anything."""
    time_wait: float = 2.0
    """2 MSL. Inside a tunnel a segment lives no longer than WireGuard's replay window."""
    linger: float = 60.0
    """How long `close` keeps trying to deliver what was written."""
    max_connections: int = 4096
    syn_backlog: int = 128
    """Incoming connections waiting for a decision, in all."""
    syn_timeout: float = 30.0
    """How long one waits."""
    bursts_per_turn: int = 16
    """The most one connection sends in one `transmit`."""
