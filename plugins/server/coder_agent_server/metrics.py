"""Figures for Prometheus, on a listener of their own: they are nobody's business who can reach the API."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
    UnknownMetricFamily,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from coder_agent.hooks import Purpose

from .deployment import Deployment
from .front import DURATIONS


class DeploymentCollector(Collector):
    """Reads the deployment when it is scraped; nothing is counted in between."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment

    def collect(self) -> Iterator[Metric]:
        """prometheus_client's hook."""
        server = self._deployment
        yield InfoMetricFamily("coder_server_build", "Version of the server.", {"version": server.version})
        yield GaugeMetricFamily("coder_server_agents_connected", "Control connections of agents.", len(server.presence))
        yield GaugeMetricFamily("coder_server_clients_connected", "Control connections of users.", len(server.clients))
        yield GaugeMetricFamily(
            "coder_server_coordinator_peers", "Peers with a Coordinate stream.", len(server.coordinator.peers())
        )
        yield from self._requests()
        yield from self._paths()
        yield from self._tailnet()
        yield from self._health()
        yield from self._refused()
        for name, value in sorted((server.relay.metrics() if server.relay is not None else {}).items()):
            yield UnknownMetricFamily(f"coder_relay_{name}", f"The relay's own figure {name!r}.", value)

    def _requests(self) -> Iterator[Metric]:
        """What the API was asked. Paths are no labels: they hold names, and there is no end of them."""
        tally = self._deployment.tally
        total = CounterMetricFamily("coder_server_requests", "Requests answered.", labels=["method", "status"])
        for (method, status), count in sorted(tally.requests.items()):
            total.add_metric([method, status], count)
        yield total
        taken = HistogramMetricFamily("coder_server_request_duration_seconds", "How long answers took.")
        sums = list(accumulate(tally.durations))
        bounds = [*map(str, DURATIONS), "+Inf"]
        taken.add_metric([], list(zip(bounds, sums, strict=True)), tally.seconds)
        yield taken
        yield GaugeMetricFamily("coder_server_requests_in_progress", "Requests in progress.", tally.in_progress)
        yield GaugeMetricFamily("coder_server_websockets", "WebSockets that are open.", tally.websockets)

    def _paths(self) -> Iterator[Metric]:
        """Connections of users' programs to workspaces, by the way that carries them."""
        found = GaugeMetricFamily("coder_server_paths", "Connections to workspaces.", labels=["kind"])
        for kind, count in self._deployment.paths.kinds().items():
            found.add_metric([kind], count)
        yield found

    def _tailnet(self) -> Iterator[Metric]:
        """What the server itself carries into workspaces. The first two as coderd has them (coderd/tailnet.go)."""
        figures = self._deployment.tailnet.metrics()
        gauges = {"open_connections": "Connections into workspaces.", "agents": "Workspaces that are connected to."}
        for name, help_text in gauges.items():
            yield GaugeMetricFamily(f"coder_servertailnet_{name}", help_text, figures[name])
        yield CounterMetricFamily(
            "coder_servertailnet_connections", "Connections made so far.", figures["connections_total"]
        )
        yield CounterMetricFamily(
            "coder_servertailnet_dial_failures", "Connections that could not be made.", figures["dial_failures"]
        )

    def _health(self) -> Iterator[Metric]:
        """The last report, as it is: a scrape shall not make this server dial."""
        report = self._deployment.health.last
        if report is None:
            return
        severity = GaugeMetricFamily(
            "coder_server_health_severity", "Of the last health report: 0 ok, 1 warning, 2 error.", labels=["section"]
        )
        for name, finding in report.findings.items():
            severity.add_metric([name], int(finding.worst))
        yield severity
        yield GaugeMetricFamily(
            "coder_server_health_timestamp_seconds", "When it was made, Unix time.", report.time.timestamp()
        )

    def _refused(self) -> Iterator[Metric]:
        """What the egress policy kept this server from, if there is one."""
        egress = self._deployment.settings.egress
        if egress.policy is None:
            return
        refused = CounterMetricFamily(
            "coder_airgap_refused", "Attempts that the egress policy refused.", labels=["purpose"]
        )
        for purpose in Purpose:
            refused.add_metric([purpose.value], egress.refused[purpose.value])
        yield refused


def build_metrics_app(deployment: Deployment) -> Starlette:
    """An application with the one route ``/metrics``."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(DeploymentCollector(deployment))
    ProcessCollector(registry=registry)  # memory, CPU time, open files
    PlatformCollector(registry=registry)

    async def metrics(request: Request) -> Response:
        return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return Starlette(routes=[Route("/metrics", metrics, methods=["GET"])])
