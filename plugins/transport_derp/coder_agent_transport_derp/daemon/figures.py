"""What a relay shows of itself: Prometheus figures and one small page."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping

GAUGES = frozenset({"clients", "connections", "duplicate_keys", "home_clients", "mesh_clients", "mesh_watchers"}) | {
    "tls_handshakes_waiting",
    "waiting_connections",
}


def exposition(figures: Mapping[str, int]) -> tuple[bytes, str]:
    """The figures in Prometheus' format, and its content type. Raises ImportError without prometheus-client."""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.exposition import CONTENT_TYPE_LATEST
    from prometheus_client.registry import Collector

    class Figures(Collector):
        def collect(self) -> Iterator[Metric]:
            for name, value in sorted(figures.items()):
                family = GaugeMetricFamily if name in GAUGES or name.startswith("mesh_link") else CounterMetricFamily
                yield family(f"derp_{name}", f"The relay's figure {name}.", value)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Figures())
    return generate_latest(registry), CONTENT_TYPE_LATEST


def page(figures: Mapping[str, int], public_key: str, state: str, uptime: Callable[[], float]) -> bytes:
    """The page at ``/``: is it up, for how long, who is on it. Nothing secret, nothing about single clients."""
    rows = "".join(
        f"<tr><th scope=row>{html.escape(name.replace('_', ' '))}<td>{value}" for name, value in sorted(figures.items())
    )
    seconds = int(uptime())
    since = f"{seconds // 86400} d {seconds // 3600 % 24:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        "<title>DERP relay</title><style>body{font:16px/1.5 system-ui;margin:2rem auto;max-width:40rem;padding:0 1rem;"
        "color-scheme:light dark}th{text-align:left;font-weight:400;padding-right:2rem}td{text-align:right}"
        "code{overflow-wrap:anywhere}</style>"
        f"<h1>DERP relay</h1><p>{html.escape(state)}, up for {since}. It carries encrypted packets between machines "
        "that cannot reach each other directly.<p>Its key: "
        f"<code>{html.escape(public_key)}</code><table>{rows}</table></html>\n"
    ).encode()
