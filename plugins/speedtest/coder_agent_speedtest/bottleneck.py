"""What limited a speed test, concluded from what both ends counted. No I/O here."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

BUSY = 0.85
"""Share of one core at which a node has no time left: all of it runs in one thread, and the kernel has its part."""
LOSSY = 0.005
"""Share of lost packets from which CUBIC cannot fill a path of some 20 ms any more (RFC 9438 §5.2: at 0.5 % it keeps
a window of about 20 packets)."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What a node has used and lost since it started. Differences of two are what counts.

    Units: `clock`, `cpu` (of the whole process) and `waited` (runnable, while others had the cores; 0 where the system
    does not tell) in seconds; `sent` and `lost` in packets of speed tests.
    """

    clock: float
    cpu: float
    waited: float = 0.0
    sent: int = 0
    lost: int = 0


class Limit(StrEnum):
    """Stable codes, also in JSON."""

    RECEIVER_CPU = "receiver_cpu"
    SENDER_CPU = "sender_cpu"
    LOSS = "loss"
    RELAY = "relay"
    PATH = "path"


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """The conclusion. CPU figures are shares of one core; None: the other side tells none, as stock agents do."""

    limit: Limit
    text: str
    sender_cpu: float | None
    receiver_cpu: float | None
    loss: float | None


@dataclass(frozen=True, slots=True)
class Used:
    """What one end used between two looks."""

    cpu: float | None = None
    loss: float | None = None
    waited: float = 0.0

    @property
    def busy(self) -> float:
        """Share of the time in which it had something to compute, whether it was let or not."""
        return (self.cpu or 0.0) + self.waited

    @classmethod
    def between(cls, before: Figures | None, after: Figures | None) -> Used:
        """From the figures at the beginning and at the end; nothing from an end that tells none."""
        if before is None or after is None or after.clock <= before.clock:
            return cls()
        sent = after.sent - before.sent
        loss = max(0, after.lost - before.lost) / sent if sent > 0 else None
        clock = after.clock - before.clock
        return cls(max(0.0, after.cpu - before.cpu) / clock, loss, max(0.0, after.waited - before.waited) / clock)


def find(sender: Used, receiver: Used, names: tuple[str, str], relay: str) -> Bottleneck:
    """Name what limited the transfer.

    `names`: how sender and receiver are called; `relay`: the region that carried it, "" = direct. A busy end comes
    first: who has no time to read loses packets, too, and a path that is relayed could still be limited by an end.
    """
    limit = _limit(sender, receiver, relay)
    return Bottleneck(limit, _text(limit, sender, receiver, names, relay), sender.cpu, receiver.cpu, sender.loss)


def _limit(sender: Used, receiver: Used, relay: str) -> Limit:
    if receiver.busy >= BUSY and receiver.busy >= sender.busy:
        return Limit.RECEIVER_CPU
    if sender.busy >= BUSY:
        return Limit.SENDER_CPU
    if (sender.loss or 0) >= LOSSY:
        return Limit.LOSS
    return Limit.RELAY if relay else Limit.PATH


def _text(limit: Limit, sender: Used, receiver: Used, names: tuple[str, str], relay: str) -> str:
    if limit is Limit.RECEIVER_CPU:
        return f"the CPU of {names[1]}: receiving took {_cores(receiver)}"
    if limit is Limit.SENDER_CPU:
        return f"the CPU of {names[0]}: sending took {_cores(sender)}"
    if limit is Limit.LOSS:
        return f"loss: {sender.loss:.1%} of the packets had to be sent again" + (
            f", via relay {relay}" if relay else ""
        )
    where = f"the relay {relay}, or the ways to it" if relay else "the path"
    return f"{where}: {_what_it_was_not(sender, receiver, names)}"


def _cores(used: Used) -> str:
    waited = f", and waited for one {used.waited:.0%} of the time" if used.waited >= 0.1 else ""
    return f"{used.cpu or 0:.0%} of a core{waited}"


def _what_it_was_not(sender: Used, receiver: Used, names: tuple[str, str]) -> str:
    known = [
        f"{name} used {_cores(used)}"
        for name, used in zip(names, (sender, receiver), strict=True)
        if used.cpu is not None
    ]
    known.append("how much was lost is not known" if sender.loss is None else f"{sender.loss:.2%} was lost")
    return ", ".join(known)
