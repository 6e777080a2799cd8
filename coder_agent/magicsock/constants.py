"""Every number that path selection uses. Units: seconds and bytes unless the name says otherwise.

Source, where no other is named: tailscale wgengine/magicsock/{magicsock,endpoint,derp,endpoint_tracker}.go and
tsconst/ping.go. Some are obeyed elsewhere (sockets, relay client, STUN); they stand here so that all agree.
"""

from __future__ import annotations

# ------------------------------------------------------------ sessions and trust

SESSION_ACTIVE_TIMEOUT = 45.0
"""No outbound WireGuard packet for this long ⇒ heartbeats stop. Also the life of a candidate learnt from a ping, and
how long without tunnel traffic until periodic STUN stops."""
HEARTBEAT_INTERVAL = 3.0
"""Between pings of the best path, while the session is active."""
TRUST_DURATION = 6.5
"""After a pong the path is used alone for this long: two lost heartbeats in a row make traffic spill to the relay."""
UPGRADE_INTERVAL = 60.0
"""Between searches for a better path while a direct one works."""
GOOD_ENOUGH_LATENCY = 0.005
"""At or below this latency no better path is looked for."""

# ------------------------------------------------------------ pings

MIN_PING_INTERVAL = 5.0
"""Between discovery pings to one candidate; a call-me-maybe resets it."""
CALL_REPEATS = (0.3, 1.0)
"""After a call-me-maybe, sent or obeyed, whoever has not answered is pinged again so much later, within the budget: the
first pings pass each other while one router is still shut, or the call takes longer than they do. Ours: upstream waits
for the interval. The first is longer than a call takes by relay, as a rule; the second covers distant relays."""
PING_TIMEOUT = 5.0
"""A pong later than this is not counted."""
LOSS_PINGS, LOSS_PINGS_LEAST = 20, 3
"""Loss is what is missing of so many regular pings, a minute's; less than three say nothing."""
PONG_HISTORY = 64
"""Latencies remembered per candidate. Only the newest decides."""
PADDED_PING_SIZE = 1310
"""UDP payload of our path-proving pings, and of pongs to such pings: about a full-size WireGuard packet, so that only a
path which carries those is ever chosen. Source: coder/tailscale disco (fix for coder/coder #15523)."""
UNPADDED_PING_SIZE = 124
"""UDP payload of a ping without padding, as Tailscale sends it."""
PADDED_VERSION = 1
"""Version byte of padded pings and pongs. Nobody checks it; we use it to tell who wants a padded pong."""
MAX_PINGS_IN_FLIGHT = 1024
"""Per peer; the oldest is forgotten. Ours: upstream has no bound."""

# ------------------------------------------------------------ doubt: is the direct path still there? (all ours)

PULSE = 0.05
"""While packets go to a peer that is reached directly: between looks at whether it still answers. A quarter of the
shortest TCP time-out (200 ms), so that a dead path is left before TCP slows down for it."""
IDLE_PULSES = 20
"""Pulses without a packet either way after which they stop: a second."""
RESTING_AFTER = 45.0
"""Without a byte either way for this long a session rests, though keepalives hold it open: an idle node shall send less
than a packet a second."""
RESTING_HEARTBEAT, RESTING_TRUST = 10.0, 21.0
"""Then between pings, and how long a pong is trusted: inside the 30 s of poor NATs, twice. Who types
is safe by doubt."""
DOUBT_AFTER, DOUBT_MARGIN, DOUBT_JITTER = 0.15, 0.1, 0.25
"""An answer missing for the first, or three round trips if that is longer (but not more than one round trip and the
second), or longer than the path's own jitter explains (of which no more than the third is believed: TCP's estimate is
far too high after a handshake over another way), puts the path in doubt. All are longer than a delayed ACK (40 ms)."""
LATE_PULSE = 0.05
"""A pulse that is late by this judges nothing: we were busy or asleep, and answers may be waiting in the socket."""
DOUBT_PING_INTERVAL = 0.2
DOUBT_PINGS = 5
"""In doubt the path is pinged so often, and so many times; then the trust in it ends: a second in all."""
DOUBT_PING_SIZE = UNPADDED_PING_SIZE + 1
"""Of the ping that tells the peer, by relay, that we doubt: stock nodes answer it like any other, ours by its padding
know what it means."""
DOUBT_PAUSE = 1.0
"""Between two doubts about the same missing answer."""
HINT_PAUSE_MAX = 60.0
"""A peer that sends by relay doubts the direct path: so do we, at once, then after 1, 2, 4 … up to this many seconds,
in case it has other reasons."""
INFLOW_PULSES, INFLOW_STOP = 8, 0.2
"""A flow towards us that was there in that many of the last 24 pulses, and then for this long not at all, has stopped
dead: our own ACKs may be what is missing."""

# ------------------------------------------------------------ quality: direct or relayed? (all ours)

QUALITY_WINDOW = 0.25
"""Figures are summed up in windows of this length…"""
QUALITY_WINDOWS = 6
"""…of which so many are looked at together: 1.5 s, so that a policed path is left within 2 s."""
TRIAL_WINDOWS = 3
"""So many are enough to judge a way against one that was measured lately."""
SETTLE = 0.25
"""After a change of the way nothing is counted for so long, or three round trips: what was in flight is the
old way's."""
QUALITY_BYTES = 12_000
"""Ten packets. A share of less is no loss rate."""
DIRECT_RETRY, DIRECT_RETRY_MAX = 5.0, 20.0
"""A direct path that lost is tried again after this, doubling: it wins back within 30 s."""
RELAY_RETRY, RELAY_RETRY_MAX = 10.0, 300.0
"""A relay that lost likewise."""
RELAY_PATIENCE = 1.0
"""An answer by a relay that was chosen is missing after this: longer than a time-out of the TCP that carries it."""
RELAY_MEMORY = 60.0
"""How long the speed of a relay that was good stays known while the direct path carries."""
RELAY_PING_INTERVAL = 30.0
SLOW_DIRECT = 0.1
"""While the direct path takes longer than this, the relay is pinged so often for comparison."""

# ------------------------------------------------------------ candidates

CANDIDATE_PRUNE_THRESHOLD = 100
"""More candidates than this ⇒ those learnt from pings are pruned (upstream), the oldest evicted (ours)."""
MAX_LISTED_ENDPOINTS = 64
"""Endpoints taken from one coordinator update or one call-me-maybe, and put into one. Ours: a relay packet has room
for 3600. Tailscale publishes at most some dozens."""
MAX_SUGGESTED_ENDPOINTS = 32
"""Addresses of one peer taken from our own candidate sources. Ours: what a machine has on the LANs we share with it."""
MAX_SOURCES = 64
"""Addresses remembered per peer for looking up who sent a packet. Ours."""
ALLOWANCE_BURST = 10
"""Call-me-maybes in a row that we obey from one peer, and incoming pings that we answer with a ping of our own…"""
ALLOWANCE_PER_SECOND = 1.0
"""…and how fast either allowance refills. Ours: one call makes us ping some 200 addresses of the peer's choice, and a
captured ping can be replayed from forged addresses."""

PROBE_BURST = 32
"""Candidates of one peer that are pinged at once while looking for a path…"""
PROBES_PER_SECOND = 16.0
"""…and per second after that. Ours: whoever is allowed to be our peer can make us ping any address, and no more than
that. The first ping to an address that never answered is a small one: 152 bytes on the wire, 5 kB at once."""
PROBE_SLICE = 0.25
"""Between two parts of a search that went over that budget."""
FULL_PINGS_LOST = 2
"""So many full-size pings lost in a row, where small ones are answered, are not chance but the MTU."""

# ------------------------------------------------------------ reports (all ours)

REPORT_INTERVAL = 1.0
"""Between two reports to one peer."""
REPORT_REPEAT = 30.0
"""While the search goes on: the report is repeated so often."""
REPORT_ANSWERS, REPORT_ANSWERS_PER_SECOND = 5, 0.5
"""Reports that we send because a peer asks for them: so many at once, then so many per second."""
REPORT_TRIED, REPORT_SOURCES = 32, 8
"""Addresses named in a report: tried, and seen as sources of pings (the newest)."""

# ------------------------------------------------------------ guessing ports (all ours: birthday.py, prediction.py)

LOWEST_PORT, HIGHEST_PORT = 1024, 65535
"""Ports that NATs give out to flows from unprivileged ports. Source: RFC 4787 §4.2.2; Linux nf_nat_core.c."""
BIRTHDAY_SOCKETS = 256
BIRTHDAY_GUESSES = 1280
"""256 doors among 64,512 ports: a random knock finds one with p = 256/64,512 = 0.4 %, and of 1,280 different ones none
finds any with (1 - p)^1280 = 0.6 %. Half of the attempts need no more than 175 knocks (2.7 s); 95 %, 754 (12 s).
More doors would exceed what small NATs keep per host, more knocks look like a scan."""
BIRTHDAY_TICK, BIRTHDAY_GUESSES_PER_TICK = 0.25, 16
"""64 knocks a second, 9.7 kB/s on the wire. All end within the 30 s for which a mapping without an answer lives (Linux
nf_conntrack_udp_timeout; RFC 4787 §4.3 wants two minutes), so that no door need be opened twice."""
BIRTHDAY_OPENED_PER_TICK = 64
"""Doors made at a time: the loop is held up for some 3 ms, not for 12."""
BIRTHDAY_DURATION = BIRTHDAY_TICK * (BIRTHDAY_GUESSES / BIRTHDAY_GUESSES_PER_TICK) + 3.0
"""How long an attempt lasts: all knocks, and the messages before and after them."""
BIRTHDAY_PATIENCE = 2.0
"""The simpler ways have this long before."""
BIRTHDAY_PAUSES = (60.0, 300.0, 1800.0)
"""From the beginning of one attempt with a peer to the next: after a success, after one failure, after more."""
BIRTHDAYS_AT_ONCE = 2
"""Per node: 512 sockets, 128 knocks a second."""
PREDICTED_PORTS = 16
"""Next ports of a NAT that counts, published in a call. Our own search takes a few, and so do other hosts behind it."""

# ------------------------------------------------------------ our own endpoints

ENDPOINTS_FRESH = 27.0
"""An own endpoint list younger than this may be sent in a call-me-maybe; an older one is refreshed first."""
ENDPOINTS_WAIT = 3.0
"""How long a call-me-maybe waits for that refresh. Source: netcheck's STUN probe timeout."""
RESTUN_MIN, RESTUN_MAX = 20.0, 26.0
"""Periodic STUN: uniform in this range (below the 30 s after which poor NATs forget a mapping)."""
ENDPOINT_TRACKER_LIFE = 310.0
"""A recently seen own endpoint stays advertised this long (5 min 10 s)…"""
ENDPOINT_TRACKER_PER_IP = 6
"""…but not more than this many per IP."""

# ------------------------------------------------------------ relays

DERP_MAGIC_IP = "127.3.3.40"
"""Stands for "relay region <port>" wherever a format has room only for ip:port."""
DERP_IDLE_CLOSE = 60.0
"""A relay connection outside the home region closes after this long without a write…"""
DERP_IDLE_SWEEP = 15.0
"""…checked this often."""
DERP_WRITE_QUEUE_PACKETS = 32
"""Upstream's queue per region (drop oldest, 3 attempts). Smaller than one of our bursts: our relay transport counts
bytes instead; the number matters for how fast a stock peer can send."""
DERP_WRITE_ATTEMPTS = 3
DERP_HOME_FRAME_RECORD = 5.0
"""How often frames from the home relay are noted for the home region's hysteresis."""

# ------------------------------------------------------------ sockets

DEFAULT_PORT = 41641
"""UDP port of a daemon; other programs take an ephemeral one."""
SOCKET_BUFFER_SIZE = 7 << 20
"""Wanted for receive and send."""
REBIND_THROTTLE = 5.0
"""Between two rebinds caused by send errors."""
RECEIVE_NOTE_INTERVAL = 10.0
"""How often activity of a peer is noted while WireGuard packets arrive."""

# ------------------------------------------------------------ left out, named for the reader of upstream

PEER_RELAY_DISCOVERY_INTERVAL, PEER_RELAY_UPGRADE_INTERVAL = 30.0, 60.0
"""Peer relays (disco types 4–9): not implemented."""
LIFETIME_PROBE_CLIFFS = (10.0, 30.0, 60.0)
"""UDP lifetime probing: off by default upstream, not implemented. Slack 2 s, tolerance 250 ms, a cycle per 24 h."""
WIREGUARD_ONLY_PING_INTERVAL, WIREGUARD_ONLY_SWEEP_GUARD = 5.0, 10.0
"""Peers without disco: not implemented."""

# ------------------------------------------------------------ MTU

WIRE_MTU_SAFE = 1360
"""Wire MTU assumed where none was probed: inner 1280 + 80."""
WIRE_MTU_PROBES = (1280, 1360, 1400, 1500, 8000, 9000)
"""Wire sizes that upstream probes when told to; offered for sized user pings."""
USUAL_MTU = 1500
"""Of an interface, where it is not known."""
MTU_PROBE_INTERVAL = 300.0
"""Between two looks at how large packets on the direct path in use may be."""
MTU_ROUNDS = 3
"""A new path, or one that was suspected, is probed so many times, with the heartbeats: a lost probe may be chance.
Source: RFC 8899 §5.1.2 (MAX_PROBES)."""
MTU_REPAIR = 0.5
"""After a suspicion the path's losses are not held against it for so long and two round trips: they are being repaired.
Short, for a path that is really bad has to be left within 3 s. Ours."""
MTU_CALM = 30.0
"""After this long without a suspicion the next one is the first again. Ours."""
TUNNEL_MTU_SAFE = 1280
"""Inner packets of this size are taken by every peer, and IPv6 knows no smaller MTU (RFC 8200 §5)."""
WIREGUARD_OVERHEAD = 32
"""Header and tag of a transport message."""
TUNNEL_MTU_MAX = 8940
"""The largest inner packet that a probe can prove: 9000 less headers (IPv4)."""
UDP_OVERHEAD_V4, UDP_OVERHEAD_V6 = 28, 48
"""IP and UDP headers: payload + this = wire size."""

TIMER_SLACK = 0.001
"""Seconds behind the end of a span at which it is surely over."""
