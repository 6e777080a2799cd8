"""What a transport counts. The names are the keys of `Transport.stats()`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """Plain integers, added to once per burst or system call."""

    rx_packets: int = 0
    rx_bytes: int = 0
    rx_bursts: int = 0
    rx_reads: int = 0
    rx_truncated: int = 0
    rx_empty: int = 0
    rx_errors: int = 0
    tx_packets: int = 0
    tx_bytes: int = 0
    tx_calls: int = 0
    tx_full: int = 0
    tx_lost_denied: int = 0
    tx_lost_too_big: int = 0
    tx_probes_refused: int = 0
    tx_lost_unreachable: int = 0
    tx_lost_no_socket: int = 0
    tx_lost_other: int = 0
    gso_refused: int = 0
    rebinds: int = 0
