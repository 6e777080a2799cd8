"""What is in flight, what of it arrived (SACK), and what is lost (RACK).

The unit is the *record*: a stretch of sequence numbers sent at one time, in bulk up to a whole turn of bursts. Records
split where an acknowledgement or a loss ends inside one, so bulk without loss handles one record per turn.
Sequence numbers are unwrapped ints. Sources: RFC 2018, RFC 2883, RFC 8985 (§ numbers below are of this one).
"""

from __future__ import annotations

from bisect import bisect_right

MAX_RECORDS = 4096
"""A 4 MiB window at MTU 1280 has 3400 segments. Beyond this, SACK blocks that would split a record are ignored: they
are advice, and a peer must not be able to fill our memory with them."""
DUPLICATE_THRESHOLD = 3
"""Segments beyond a hole after which it counts as lost without waiting (§6.2 step 4, RFC 6675)."""
_REORDER_STEPS = 4
"""The waiting time grows in quarters of the minimum round trip, up to one smoothed one (§6.2 step 4)."""
_PERSISTENCE = 16
"""Recoveries without a duplicate after which a grown waiting time is given up (§6.2 step 4)."""


class Record:
    """One stretch in flight. Exactly one of: sacked, lost (waits to be sent again), or outstanding (neither)."""

    __slots__ = ("start", "end", "at", "sacked", "lost", "retransmitted")

    def __init__(self, start: int, end: int, at: float) -> None:
        self.start = start
        self.end = end
        self.at = at
        self.sacked = False
        self.lost = False
        self.retransmitted = False

    def split(self, at: int) -> Record:
        """Shorten this record to end at `at`; returns the rest."""
        rest = Record(at, self.end, self.at)
        rest.sacked, rest.lost, rest.retransmitted = self.sacked, self.lost, self.retransmitted
        self.end = at
        return rest


class Scoreboard:
    """Everything between `una` and `nxt`."""

    __slots__ = (
        "una",
        "nxt",
        "sacked",
        "lost",
        "records",
        "_sample",
        "reorder_deadline",
        "_retransmitted",
        "_at",
        "_end",
        "_rtt",
        "_least_rtt",
        "_highest_sacked",
        "_reordered",
        "_steps",
        "_persist",
    )

    def __init__(self, start: int) -> None:
        self.una = start
        """First sequence number not acknowledged."""
        self.nxt = start
        """First sequence number never sent."""
        self.sacked = 0
        """Bytes acknowledged selectively."""
        self.lost = 0
        """Bytes marked lost and not sent again yet."""
        self.records: list[Record] = []
        self.reorder_deadline: float | None = None
        """When a suspected loss becomes one."""
        self._sample: float | None = None
        self._retransmitted = 0
        self._at = float("-inf")
        self._end = start
        self._rtt = 0.0
        self._least_rtt = float("inf")
        self._highest_sacked = start
        self._reordered = False
        self._steps = 1
        self._persist = 0

    def seed_rtt(self, rtt: float) -> None:
        """The handshake's round trip: without one, an early retransmission could not be told from its original."""
        self._least_rtt = min(self._least_rtt, rtt)

    @property
    def in_flight(self) -> int:
        """Bytes thought to be in the network (the pipe of RFC 6675)."""
        return self.nxt - self.una - self.sacked - self.lost

    def sent(self, size: int, now: float) -> None:
        """`size` new bytes left at `now`."""
        start = self.nxt
        self.nxt = end = start + size
        if self.records:
            last = self.records[-1]
            joins = last.at == now or len(self.records) >= MAX_RECORDS
            if joins and not (last.retransmitted or last.sacked or last.lost):
                last.end, last.at = end, now
                return
        self.records.append(Record(start, end, now))

    def advance(self, una: int, now: float) -> int:
        """Everything before `una` arrived. Returns the bytes not known to have arrived before."""
        delivered = done = 0
        for record in self.records:
            if record.start >= una:
                break
            size = min(record.end, una) - record.start
            if record.sacked:
                self.sacked -= size
            else:
                delivered += size
                if record.lost:
                    self.lost -= size
                self._arrived(record, now)
            if record.end > una:
                record.start = una
                break
            self._retransmitted -= record.retransmitted
            done += 1
        del self.records[:done]
        self.una = una
        return delivered

    def sack(self, blocks: list[tuple[int, int]], now: float) -> int:
        """Enter SACK blocks (ends exclusive). Returns the bytes they newly report."""
        delivered = 0
        for start, end in blocks:
            start = max(start, self.una)
            if end > self.nxt or start >= end:
                continue  # below una: a duplicate report (RFC 2883)
            index = max(bisect_right(self.records, start, key=_start_of) - 1, 0)
            while index < len(self.records) and self.records[index].start < end:
                record = self.records[index]
                index += 1
                if record.sacked or record.end <= start:
                    continue
                if (record.start < start or record.end > end) and len(self.records) >= MAX_RECORDS:
                    continue
                if record.start < start:
                    self._insert(index, record.split(start))
                    continue
                if record.end > end:
                    self._insert(index, record.split(end))
                size = record.end - record.start
                delivered += size
                self.sacked += size
                if record.lost:
                    record.lost = False
                    self.lost -= size
                record.sacked = True
                self._arrived(record, now)
            self._highest_sacked = max(self._highest_sacked, end)
        if delivered:
            self._join()
        return delivered

    def take_sample(self) -> float | None:
        """The round trip measured since the last call; None if nothing that was sent once has arrived."""
        sample, self._sample = self._sample, None
        return sample

    def saw_duplicate(self) -> None:
        """The peer reported a duplicate (DSACK): we resent too early, so wait longer for reordering (§6.2 step 4)."""
        self._steps = min(self._steps + 1, _REORDER_STEPS * 4)
        self._persist = _PERSISTENCE

    def recovered(self) -> None:
        """An episode of loss ended."""
        if self._persist:
            self._persist -= 1
            if not self._persist:
                self._steps = 1

    def detect(self, now: float, minimum_rtt: float, srtt: float, *, recovering: bool, mss: int) -> int:
        """Mark lost what should have arrived by now (§6.2 step 5). Returns the bytes newly lost."""
        self.reorder_deadline = None
        if not self.sacked and not self._retransmitted:
            return 0  # nothing sent later has arrived
        wait = self._rtt + self._reorder_window(minimum_rtt, srtt, recovering=recovering, mss=mss)
        found = 0
        rack = (self._at, self._end)
        for record in self.records:
            if record.sacked or record.lost or (record.at, record.end) >= rack:
                continue
            due = record.at + wait
            if due <= now:
                record.lost = True
                found += record.end - record.start
            elif self.reorder_deadline is None or due > self.reorder_deadline:
                self.reorder_deadline = due
        self.lost += found
        return found

    def lose_first(self, mss: int) -> int:
        """Without SACK: the first segment is lost, say three duplicate acknowledgements (RFC 6582). Bytes marked."""
        if not self.records or self.records[0].lost or self.records[0].sacked:
            return 0
        record = self.records[0]
        if record.end - record.start > mss:
            self._insert(1, record.split(record.start + mss))
        record.lost = True
        self.lost += record.end - record.start
        return record.end - record.start

    def lose_all(self) -> None:
        """The retransmission timer fired: all that is not known to have arrived is lost (§6.3)."""
        if self.records and self.records[0].sacked:
            for record in self.records:  # the peer withdrew what it had reported (RFC 2018 §8)
                record.sacked = False
            self.sacked = 0
        for record in self.records:
            if not record.sacked and not record.lost:
                record.lost = True
                self.lost += record.end - record.start
        self.reorder_deadline = None

    def resend(self, limit: int, now: float) -> tuple[int, int]:
        """The first lost stretch, at most `limit` bytes of it, counts as in flight again: (start, end).

        Only to be called while `lost` is not 0.
        """
        index = next(i for i, record in enumerate(self.records) if record.lost)
        record = self.records[index]
        last = index + 1
        while last < len(self.records) and self.records[last].lost and self.records[last].start - record.start < limit:
            last += 1
        record.end = self.records[last - 1].end
        for other in self.records[index + 1 : last]:
            self._retransmitted -= other.retransmitted
        del self.records[index + 1 : last]
        if record.end - record.start > limit:
            self._insert(index + 1, record.split(record.start + limit))
        self.lost -= record.end - record.start
        self._sent_again(record, now)
        return record.start, record.end

    def probe(self, mss: int, now: float) -> tuple[int, int] | None:
        """The last segment, to be sent again as a tail loss probe (§7.3). None if it is known to have arrived."""
        if not self.records or self.records[-1].sacked:
            return None
        record = self.records[-1]
        if record.end - record.start > mss:
            self._insert(len(self.records), record.split(record.end - mss))
            record = self.records[-1]
        if record.lost:
            self.lost -= record.end - record.start
        self._sent_again(record, now)
        return record.start, record.end

    def _sent_again(self, record: Record, now: float) -> None:
        record.lost = False
        record.at = now
        if not record.retransmitted:
            record.retransmitted = True
            self._retransmitted += 1

    def _insert(self, index: int, record: Record) -> None:
        self.records.insert(index, record)
        self._retransmitted += record.retransmitted

    def _join(self) -> None:
        """Merge neighbours that both arrived, so that the list grows with holes and not with segments."""
        out: list[Record] = []
        for record in self.records:
            if out and record.sacked and out[-1].sacked:
                out[-1].end = record.end
                self._retransmitted -= record.retransmitted
            else:
                out.append(record)
        self.records = out

    def _arrived(self, record: Record, now: float) -> None:
        """RACK steps 1–3: the most recently sent stretch that arrived, and whether anything overtook."""
        rtt = now - record.at
        if record.retransmitted:
            if rtt < self._least_rtt:
                return  # more likely the original arrived (§6.2 step 2)
        else:
            self._least_rtt = min(self._least_rtt, rtt)
            self._sample = rtt if self._sample is None else min(self._sample, rtt)
            if record.end < self._highest_sacked and not record.lost:
                self._reordered = True
        if (record.at, record.end) > (self._at, self._end):
            self._at, self._end, self._rtt = record.at, record.end, rtt

    def _reorder_window(self, minimum_rtt: float, srtt: float, *, recovering: bool, mss: int) -> float:
        """How long to wait for overtaken data (§6.2 step 4)."""
        if not self._reordered and (recovering or self.sacked >= DUPLICATE_THRESHOLD * mss):
            return 0.0
        return min(self._steps * minimum_rtt / _REORDER_STEPS, srtt)


def _start_of(record: Record) -> int:
    return record.start
