"""Which relay region is home: measured latency with hysteresis (the numbers are tailscale net/netcheck's)."""

from __future__ import annotations

from collections.abc import Mapping

from ..base.derp_map import DerpMap

ABSOLUTE_HYSTERESIS = 0.010
"""Seconds by which another region must be faster before home moves."""
RELATIVE_HYSTERESIS = 2 / 3
"""…and it must take at most this share of the present home's latency."""


def choose_home(derp_map: DerpMap, latency: Mapping[int, float], current: int, preferred: int = 0) -> int:
    """The home region, 0 if the map has none. `preferred` (PathRules.prefer_region) wins if it is in the map and has a
    relay, whatever its latency.

    Latency is in seconds per region; a region without one was not measured. Without any measurement the present home
    stays, else the lowest region id is taken: every node of a deployment then picks the same one.
    """
    wish = derp_map.regions.get(preferred)
    if wish is not None and wish.has_relay:
        return preferred
    eligible = {rid for rid, region in derp_map.regions.items() if region.may_be_home}
    if not eligible:  # only `avoid` regions: better a bad home than none
        eligible = {rid for rid, r in derp_map.regions.items() if r.has_relay}
    if not eligible:
        return 0
    measured = {rid: latency[rid] * _score(derp_map, rid) for rid in eligible if rid in latency}
    if not measured:
        return current if current in eligible else min(eligible)
    best = min(measured, key=lambda rid: (measured[rid], rid))
    if current in measured and best != current:
        old, new = measured[current], measured[best]
        if old - new < ABSOLUTE_HYSTERESIS or new > old * RELATIVE_HYSTERESIS:
            return current
    return best


def _score(derp_map: DerpMap, region: int) -> float:
    score = derp_map.region_score.get(region, 1.0)
    return score if score > 0 else 1.0
