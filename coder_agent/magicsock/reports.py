"""Telling peers what we know about our network, and keeping what they tell: the evidence for a verdict.

Ours: Tailscale's nodes keep this to themselves. Everything goes through relays only, little and rarely: when a search
goes on without success, when our facts change, when we are asked.
"""

from __future__ import annotations

from dataclasses import replace

from ..base.nat_facts import NatFacts, PathReport
from ..base.path_rules import DirectRule
from ..base.paths import PathKind
from ..protocols import disco
from ..protocols.effects import Dropped
from . import constants as c
from .effects import Effect
from .peer import FOREVER, NOTHING, Peer
from .peer_map import PeerMap
from .prober import Prober


class Reporter:
    """Makes our reports and takes in those of peers. One per core."""

    def __init__(self, peers: PeerMap, prober: Prober) -> None:
        self._peers = peers
        self._prober = prober

    def set_facts(self, facts: NatFacts, now: float) -> list[Effect]:
        """Our network is (known to be) another: tell active peers that are still relayed."""
        if facts == self._prober.facts:
            return NOTHING
        self._prober.facts = facts
        effects: list[Effect] = []
        for peer in self._peers:
            if peer.heartbeat_at is not None and not peer.is_trusted(now):
                effects += self.tell(peer, now)
        return effects or NOTHING

    def report(self, peer: Peer) -> PathReport:
        """Our account of the search for a path to `peer`. What rules forbid is not in it."""
        account, rules = peer.account, peer.rules
        facts = self._prober.facts
        if rules.direct is DirectRule.NEVER:
            facts = replace(facts, public_v4=None, public_v6=None, direct_allowed=False, direct_rule=rules.set_by)
        elif facts.direct_allowed is None:
            facts = replace(facts, direct_allowed=True)
        if not rules.ipv6:
            facts = replace(facts, public_v6=None)
        tried = [one for one in peer.candidates if one.sent]
        tried.sort(key=lambda one: one.ping_at, reverse=True)
        return PathReport(
            facts,
            account.sent,
            account.answered,
            account.seen,
            tuple(dict.fromkeys(one.addr for one in tried))[: c.REPORT_TRIED],
            tuple(account.seen_from),
            peer.announced is PathKind.DIRECT,
            any(one.too_small for one in tried),
        )

    def tell(self, peer: Peer, now: float, *, ask: bool = False) -> list[Effect]:
        """Send our report, or, if the last one was sent a moment ago, send it a moment later."""
        account = peer.account
        account.asking |= ask
        relay = peer.relay_path()
        if relay is None or not peer.disco:
            return []
        if now < account.told_at + c.REPORT_INTERVAL:
            account.tell_at = account.told_at + c.REPORT_INTERVAL
            return []
        account.told_at, account.tell_at = now, FOREVER
        asking, account.asking = account.asking or account.remote is None, False
        return self._prober.say(peer, relay, disco.Facts(self.report(peer), asking).encode())

    def searching(self, peer: Peer, now: float) -> list[Effect]:
        """A search goes on without success (yet): tell every now and then."""
        if peer.is_trusted(now) or now < peer.account.told_at + c.REPORT_REPEAT:
            return []
        return self.tell(peer, now)

    def heard(self, peer: Peer, message: disco.Facts, now: float) -> list[Effect]:
        """The peer's report. Answered if it asks, so often as it may."""
        account = peer.account
        if not account.incoming.take(now):
            return [Dropped("facts-flood")]
        account.remote = message.report
        return self.answer(peer, now) if message.ask else []

    def answer(self, peer: Peer, now: float) -> list[Effect]:
        """Tell because the peer asked (or called although we may not go direct), so often as it may make us."""
        return self.tell(peer, now) if peer.account.answers.take(now) else []

    def on_timer(self, peer: Peer, now: float) -> list[Effect]:
        """A report that waited for its turn."""
        if now < peer.account.tell_at:
            return []
        peer.account.tell_at = FOREVER
        return self.tell(peer, now)
