"""The section `derp` of a coder server's health report: does every relay of its map carry packets, does STUN answer?

Source: coder coderd/healthcheck/derphealth/derp.go.
"""

from __future__ import annotations

from coder_agent.hooks.health import HealthContext, HealthFinding, HealthWarning, Severity

from .netcheck.document import Document, derp_document
from .netcheck.relay import Effort
from .netcheck.report import NetcheckReport
from .netcheck.runner import Wishes, run_netcheck
from .netcheck.text import region_rows

NODE_SECONDS = 10.0
"""For one relay node."""
NODE_TRIES = 5
WHOLE_SECONDS = 50.0
"""For all of them: five turns of MAX_RELAYS that do not answer."""
BASE_FIELDS = frozenset({"healthy", "severity", "warnings", "dismissed", "error"})


class DerpCheck:
    """A `HealthCheck`."""

    name = "derp"

    def __init__(self, context: HealthContext) -> None:
        self._context = context

    async def run(self) -> HealthFinding:
        """Ask every node. No gateway is asked, and nobody who is not in the map."""
        context = self._context
        effort = Effort(NODE_SECONDS, NODE_TRIES, context.force_websockets, context.vouch)
        wishes = Wishes(
            dial=context.settings.network.dial_options(),
            effort=effort,
            seconds=WHOLE_SECONDS,
            all_relays=True,
            protocols=frozenset(),
        )
        report = await run_netcheck(context.derp_map(), wishes)
        return finding(report, direct=context.direct_allowed)


def finding(report: NetcheckReport, *, direct: bool) -> HealthFinding:
    """The report as a section. Where no direct connections are wanted (`direct`), nobody misses STUN."""
    document = derp_document(report)
    document["netcheck_logs"] = _logs(report)
    given = [warning for warning in document["warnings"] if direct or not warning["code"].startswith("ESTUN")]
    return HealthFinding(
        severity=Severity.OK if document["healthy"] else Severity.ERROR,
        error=HealthWarning("EUNKNOWN", document["error"]) if "error" in document else None,
        warnings=tuple(HealthWarning(warning["code"], warning["message"]) for warning in given),
        details=_details(document),
    )


def _details(document: Document) -> Document:
    return {name: value for name, value in document.items() if name not in BASE_FIELDS}


def _logs(report: NetcheckReport) -> list[str]:
    """A line per region: what UDP, relay and the rest said."""
    return [" | ".join(cell for cell in row if cell) for row in region_rows(report)]
