"""Netcheck's report as a file of `coder support bundle`."""

from __future__ import annotations

from coder_agent.base.derp_map import viewed_from
from coder_agent.base.derp_map_json import from_json
from coder_agent.hooks.diagnostics import Diagnostic, DiagnosticsContext

from ..settings import NatSettings


def netcheck_diagnostic(context: DiagnosticsContext) -> Diagnostic:
    """Coder's JSON document of a check that is made when the bundle is."""

    async def collect() -> object:
        from .document import client_report
        from .relay import Effort
        from .runner import Wishes, run_netcheck

        document = await context.get("/api/v2/workspaceagents/connection")
        settings = context.settings.section("nat_traversal", NatSettings)
        wishes = Wishes(
            dial=context.settings.network.dial_options(),
            protocols=frozenset(protocol.value for protocol in settings.mapping_protocols()),
            captive_urls=settings.captive_portal_urls,
            effort=Effort(websocket=bool(document.get("derp_force_websockets"))),
        )
        return client_report(
            await run_netcheck(viewed_from(from_json(document.get("derp_map")), context.access_url), wishes)
        )

    return Diagnostic("network/netcheck.json", "UDP, NAT, port mapping, relays and how far away they are", collect)
