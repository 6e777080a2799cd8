"""WireGuard for one node: all peers, their sessions and their timers, as one core.

    receive(burst, source, now)   datagrams of types 1–4 from anywhere  →  Deliver, Transmit, SessionReady, …
    send(peer, packets, now)      inner packets                         →  Transmit, or queued until there is a session
    deadline(), on_timer(now)     rekeying, retransmission, keepalives, forgetting keys

The device never picks a path: Transmit names the peer, and a response is accepted whatever way it came. `source` only
serves cookies, rate limits and the Authenticated effect. All bursts handed out are borrowed until the next call.

Source: the WireGuard paper; wireguard-go device/{send,receive,timers}.go and Tailscale's fork of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable

from ...base.addresses import AddrPort
from ...base.burst import Burst
from ...base.keys import NodePrivate, NodePublic
from ...base.paths import DerpPath, UdpPath
from ...errors import LocalProtocolError
from ..effects import Authenticated, Deliver, Dropped, Effect, SendRaw, SessionReady, Transmit
from .admission import Admission, Verdict
from .columns import choose_columns
from .handshakes import Handshakes
from .messages import COOKIE_REPLY, INITIATION, MESSAGE_HEADROOM, RESPONSE, message_burst, message_type
from .noise import NO_PSK, Identity
from .open import Message, Opened, Opener
from .peer import Peer
from .primitives import HandshakeRefused
from .seal import Sealer
from .session import Keypair
from .timers import HASTY_ATTEMPTS, HASTY_TIMEOUT, NEVER, REKEY_ATTEMPTS, REKEY_TIMEOUT, WAKE_PAUSE

TICK = 0.05
"""Timers are looked at no more often than this: all are of seconds, and peers may be many. Seconds."""

_EMPTY = Burst.of(b"")
"""The plaintext of a keepalive."""


class Device:
    """The WireGuard core. Junk from the network never raises; it is counted in `counters` and reported as Dropped.

    `rng` gives random bytes; `wall` Unix seconds (for handshake time stamps only). `vector` chooses the back end of the
    data path: None = numpy if importable. `mtu` is the tunnel MTU in bytes, which only limits padding.
    """

    def __init__(
        self,
        private_key: NodePrivate,
        *,
        rng: Callable[[int], bytes],
        wall: Callable[[], float],
        vector: bool | None = None,
        mtu: int = 1280,
    ) -> None:
        identity = Identity(private_key.secret)
        backend = choose_columns(vector)
        self.counters: Counter[str] = Counter()
        self._peers: dict[NodePublic, Peer] = {}
        self._handshakes = Handshakes(identity, self._peers, rng, wall)
        self._sessions = self._handshakes.index.sessions
        self._admission = Admission(identity.public, rng)
        self._sealer = Sealer(backend, mtu)
        self._opener = Opener(backend)
        self._wake = NEVER

    # ------------------------------------------------------------ peers

    def add_peer(self, key: NodePublic, *, psk: bytes | None = None, persistent_keepalive: float | None = None) -> None:
        """Let `key` talk to us. Known already ⇒ its settings change; a new PSK counts from the next handshake on.

        `persistent_keepalive`: seconds, 0 = off, None = as it was (off for a new peer).
        """
        if psk is not None and len(psk) != len(NO_PSK):
            raise LocalProtocolError(f"a pre-shared key has {len(NO_PSK)} bytes, not {len(psk)}")
        peer = self._peers.get(key)
        if peer is None:
            peer = self._peers[key] = Peer(key, self._handshakes.static_static(key))
        peer.psk = NO_PSK if psk is None else psk
        if persistent_keepalive is not None:
            self._set_keepalive(peer, persistent_keepalive)

    def remove_peer(self, key: NodePublic) -> None:
        """Forget `key`, its sessions and its queue. Unknown keys are fine."""
        peer = self._peers.pop(key, None)
        if peer is not None:
            self._handshakes.forget(peer)
            peer.staged.clear()

    def set_keepalive(self, key: NodePublic, seconds: float) -> None:
        """Send something to this peer at least every `seconds`, from now on; 0 = off. Unknown keys are ignored."""
        peer = self._peers.get(key)
        if peer is not None:
            self._set_keepalive(peer, seconds)

    def peers(self) -> list[NodePublic]:
        """All peers' keys."""
        return list(self._peers)

    def can_send(self, peer: NodePublic, now: float | None = None) -> bool:
        """True if there is a current session. With `now`: one that is not too old."""
        state = self._peers.get(peer)
        keypair = None if state is None else state.slots.current
        return keypair is not None and keypair.can_send(keypair.created if now is None else now)

    def last_handshake(self, peer: NodePublic) -> float | None:
        """When the last handshake was completed."""
        state = self._peers.get(peer)
        return None if state is None else state.last_handshake

    def last_received(self, peer: NodePublic) -> float | None:
        """When the last authentic message of any type came."""
        state = self._peers.get(peer)
        return None if state is None else state.last_received

    def _set_keepalive(self, peer: Peer, seconds: float) -> None:
        peer.timers.set_persistent(seconds, peer.last_received)
        self._rearm(peer)

    # ------------------------------------------------------------ sending

    def send(self, peer: NodePublic, packets: Burst, now: float, *, headroom: int = 0) -> list[Effect]:
        """Seal inner packets: one Transmit for the whole burst, rows at stride headroom + 16 + padded + 16.

        Without a session they are copied into a queue (128 packets, the oldest go) and a handshake starts.
        """
        effects: list[Effect] = []
        if not packets.count:
            return effects
        state = self._peers.get(peer)
        if state is None:
            self._drop("unknown-peer", packets.count, effects)
            return effects
        if state.static_static is None:
            self._drop("low-order-key", packets.count, effects)
            return effects
        keypair = state.slots.current
        if keypair is None or not keypair.can_send(now, packets.count):
            self._stage(state, packets, headroom, now, effects)
        else:
            self._seal(state, keypair, packets, headroom, now, effects)
        self._rearm(state)
        return effects

    def initiate(self, peer: NodePublic, now: float) -> list[Effect]:
        """Start a handshake, unless one is in progress or was sent within the last 5 s."""
        effects: list[Effect] = []
        state = self._peers.get(peer)
        if state is not None and state.timers.retransmit_at == NEVER:
            self._initiate(state, now, effects)
            self._rearm(state)
        return effects

    def hasten(self, peer: NodePublic, when: float) -> None:
        """Somebody said that what went out last did not arrive: repeat a handshake in progress at `when` already. Three
        times at most for one handshake, then at WireGuard's own pace, or it would be given up too early."""
        state = self._peers.get(peer)
        if state is None or state.timers.retransmit_at == NEVER or state.attempts >= HASTY_ATTEMPTS:
            return
        state.quiet_until = min(state.quiet_until, when)
        state.timers.initiate_at(min(state.timers.retransmit_at, when))
        self._rearm(state)

    def _seal(
        self,
        peer: Peer,
        keypair: Keypair,
        packets: Burst,
        headroom: int,
        now: float,
        effects: list[Effect],
        *,
        fresh: bool = False,
        is_data: bool = True,
    ) -> None:
        effects.append(Transmit(peer.key, self._sealer.seal(keypair, packets, headroom, fresh=fresh)))
        peer.timers.sent(now, is_data=is_data)
        if keypair.wants_rekey(now):
            self._initiate(peer, now, effects)

    def _stage(self, peer: Peer, packets: Burst, headroom: int, now: float, effects: list[Effect]) -> None:
        lost = peer.staged.put(packets, headroom)
        if lost:
            self._drop("queue-full", lost, effects)
        self._initiate(peer, now, effects)
        if peer.timers.retransmit_at == NEVER:
            # Too early for an initiation: we have just answered one, and that session may never be confirmed.
            peer.timers.initiate_after(peer.quiet_until)

    def _keepalive(self, peer: Peer, now: float, effects: list[Effect]) -> None:
        """Send what waits for a session, else an empty packet. Without a session: ask for one."""
        keypair = peer.slots.current
        waiting = peer.staged.packets
        if keypair is None or not keypair.can_send(now, max(1, waiting)):
            self._initiate(peer, now, effects)
        elif waiting:
            headroom = peer.staged.headroom
            for packets in peer.staged.take():
                self._seal(peer, keypair, packets, headroom, now, effects, fresh=True)
        else:
            self._seal(peer, keypair, _EMPTY, MESSAGE_HEADROOM, now, effects, fresh=True, is_data=False)

    def _initiate(self, peer: Peer, now: float, effects: list[Effect], *, is_retry: bool = False) -> None:
        if not is_retry:
            peer.attempts = 0
        if now < peer.quiet_until:
            if is_retry:
                peer.timers.initiate_after(peer.quiet_until)
            return
        message = self._handshakes.initiate(peer, now)
        if message is None:
            return
        peer.quiet_until = now + (HASTY_TIMEOUT if peer.hasty else REKEY_TIMEOUT)
        peer.hasty = max(0, peer.hasty - 1)
        peer.timers.initiate_after(peer.quiet_until)
        self._transmit_handshake(peer, message, now, effects)
        self.counters["initiations-sent"] += 1

    def _transmit_handshake(self, peer: Peer, message: bytes, now: float, effects: list[Effect]) -> None:
        peer.timers.sent(now, is_data=False)
        effects.append(Transmit(peer.key, message_burst(message), handshake=True))

    # ------------------------------------------------------------ receiving

    def receive(self, burst: Burst, source: Hashable, now: float) -> list[Effect]:
        """Take datagrams of any type, mixed and junk too, in order."""
        effects: list[Effect] = []
        proven: list[Peer] = []
        for item in self._opener.open(burst, self._sessions, now):
            if isinstance(item, Opened):
                self._on_transport(item, source, now, effects, proven)
            elif isinstance(item, Message):
                try:
                    self._on_message(item.data, source, now, effects)
                except HandshakeRefused as refused:
                    self._drop(refused.reason, 1, effects)
            else:
                self._drop(item.reason, item.count, effects)
        return effects

    def _on_transport(
        self, opened: Opened, source: Hashable, now: float, effects: list[Effect], proven: list[Peer]
    ) -> None:
        keypair = opened.keypair
        peer = keypair.owner
        if peer not in proven:
            proven.append(peer)
            effects.append(Authenticated(peer.key, source))
        is_confirmed = keypair is peer.slots.next
        if is_confirmed:
            self._handshakes.index.forget(peer.slots.confirmed(keypair))
            self._completed(peer, now, effects)
        peer.last_received = now
        peer.timers.received(now, is_data=opened.burst is not None)
        if opened.burst is not None:
            effects.append(Deliver(peer.key, opened.burst))
        if is_confirmed and peer.staged.packets:
            self._keepalive(peer, now, effects)
        current = peer.slots.current
        if current is not None and not peer.rekeyed_in_last_minute and current.is_in_last_minute(now):
            peer.rekeyed_in_last_minute = True
            self._initiate(peer, now, effects)
        self._rearm(peer)

    def _on_message(self, data: bytes, source: Hashable, now: float, effects: list[Effect]) -> None:
        kind = message_type(data)
        if kind == COOKIE_REPLY:
            self._handshakes.take_cookie(data, now)
            self.counters["cookies-received"] += 1
        elif kind not in (INITIATION, RESPONSE):
            raise HandshakeRefused("malformed")
        elif self._is_admitted(data, source, now, effects):
            if kind == INITIATION:
                self._on_initiation(data, now, effects)
            else:
                self._on_response(data, now, effects)

    def _is_admitted(self, data: bytes, source: Hashable, now: float, effects: list[Effect]) -> bool:
        verdict = self._admission.judge(data, source, now)
        if verdict is Verdict.ACCEPT:
            return True
        self._drop(verdict.value, 1, effects)
        if verdict is Verdict.ASK_COOKIE:
            path = UdpPath(source) if isinstance(source, AddrPort) else source
            if isinstance(path, UdpPath | DerpPath):
                # Who sent it is not known without the work that the cookie is to save: answer by the way it came.
                effects.append(SendRaw(path, self._admission.cookie_reply(data, source, now)))
                self.counters["cookies-sent"] += 1
        return False

    def _on_initiation(self, data: bytes, now: float, effects: list[Effect]) -> None:
        peer, response = self._handshakes.answer(data, now)
        peer.last_received = now
        peer.timers.received(now, is_data=False)
        peer.quiet_until = now + REKEY_TIMEOUT
        self._transmit_handshake(peer, response, now, effects)
        self._rearm(peer)
        self.counters["responses-sent"] += 1

    def _on_response(self, data: bytes, now: float, effects: list[Effect]) -> None:
        peer = self._handshakes.consume_response(data, now)
        peer.last_received = now
        peer.timers.received(now, is_data=False)
        self._completed(peer, now, effects)
        # Whatever goes first, the responder needs it: it may not send under the new keys before.
        self._keepalive(peer, now, effects)
        self._rearm(peer)

    def _completed(self, peer: Peer, now: float, effects: list[Effect]) -> None:
        peer.timers.completed()
        peer.attempts = peer.hasty = 0
        peer.rekeyed_in_last_minute = False
        peer.last_handshake = now
        effects.append(SessionReady(peer.key))
        self.counters["handshakes"] += 1

    # ------------------------------------------------------------ timers

    def deadline(self) -> float | None:
        """When `on_timer` wants to be called; may be too early, never too late. None = no timer is armed."""
        return None if self._wake == NEVER else self._wake

    def on_timer(self, now: float) -> list[Effect]:
        """Do what is due. Calling it early is harmless."""
        effects: list[Effect] = []
        if now < self._wake:
            return effects
        soonest = NEVER
        for peer in self._peers.values():
            if peer.timers.earliest <= now:
                self._expire(peer, now, effects)
                peer.timers.settle()
            soonest = min(soonest, peer.timers.earliest)
        self._wake = max(soonest, now + TICK)
        return effects

    def _expire(self, peer: Peer, now: float, effects: list[Effect]) -> None:
        timers = peer.timers
        if timers.zero_at <= now:
            timers.zero_at = NEVER
            self._zero(peer, effects)
        if timers.retransmit_at <= now:
            timers.retransmit_at = NEVER
            self._retransmit(peer, now, effects)
        if timers.unanswered_at <= now:
            timers.unanswered_at = NEVER
            self._initiate(peer, now, effects)
        if timers.keepalive_at <= now:
            timers.keepalive_at = NEVER
            self._keepalive(peer, now, effects)
            timers.kept_alive(now)
        if timers.persistent_at <= now:
            timers.persistent_at = NEVER
            self._keepalive(peer, now, effects)
            if timers.persistent_at == NEVER:  # nothing could be sent: a handshake is in progress, or just was
                timers.postpone_persistent(now)

    def _retransmit(self, peer: Peer, now: float, effects: list[Effect]) -> None:
        if peer.attempts < REKEY_ATTEMPTS:
            peer.attempts += 1
            self._initiate(peer, now, effects, is_retry=True)
            return
        self._handshakes.abandon(peer)
        peer.timers.gave_up(now)
        self.counters["handshakes-given-up"] += 1
        self._drop("no-session", peer.staged.clear(), effects)

    def forget_sessions(self, now: float) -> list[Effect]:
        """We slept: peers have forgotten our sessions by their clocks (180 s), though ours may have stood still. Make
        new ones with all that we had one with: a peer that still sends under the old keys would notice after 15 s only.
        A handshake in progress is repeated soon: its answer may go to old sockets."""
        effects: list[Effect] = []
        for peer in list(self._peers.values()):
            was_open = peer.slots.current is not None or peer.slots.next is not None
            self._zero(peer, effects)
            # The timers that were due when we woke may have sent an initiation just now.
            peer.quiet_until = min(peer.quiet_until, now + WAKE_PAUSE)
            peer.hasty = HASTY_ATTEMPTS
            is_too_early = was_open and now < peer.quiet_until
            if is_too_early or peer.timers.retransmit_at != NEVER:
                peer.timers.initiate_at(max(now, peer.quiet_until))
            elif was_open:
                self._initiate(peer, now, effects)
            self._rearm(peer)
        return effects

    def _zero(self, peer: Peer, effects: list[Effect]) -> None:
        self._handshakes.index.forget(peer.slots.clear())
        if peer.timers.retransmit_at == NEVER:
            # A handshake that happens to be in progress is young, and so is what waits for it.
            self._handshakes.abandon(peer)
            self._drop("no-session", peer.staged.clear(), effects)

    def _rearm(self, peer: Peer) -> None:
        if peer.timers.earliest < self._wake:
            self._wake = peer.timers.earliest

    def _drop(self, reason: str, count: int, effects: list[Effect]) -> None:
        if not count:
            return
        self.counters[reason] += count
        last = effects[-1] if effects else None
        if isinstance(last, Dropped) and last.reason == reason:
            last.count += count
        else:
            effects.append(Dropped(reason, count))
