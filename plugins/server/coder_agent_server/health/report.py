"""The health report as a value, and as the document that stock clients read. Pure.

Source: coder codersdk/healthsdk/healthsdk.go (HealthcheckReport, HealthSection).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from coder_agent.hooks.health import HealthFinding, HealthWarning, Severity

from ..documents import Document, moment

SECTIONS: Mapping[str, str] = {
    "DERP": "derp",
    "AccessURL": "access_url",
    "Websocket": "websocket",
    "Database": "database",
    "WorkspaceProxy": "workspace_proxy",
    "ProvisionerDaemons": "provisioner_daemons",
}
"""Names of sections in the settings, and in the report."""

EMPTY: Mapping[str, Mapping[str, object]] = {
    "workspace_proxy": {"workspace_proxies": {"regions": []}},
    "provisioner_daemons": {"items": []},
}
"""What stock clients want to see and this server does not have: healthy, for there is nothing to fail."""


@dataclass(frozen=True, slots=True)
class HealthReport:
    """What one run found, by section. `seconds`: how long it took."""

    time: datetime
    findings: Mapping[str, HealthFinding]
    seconds: float = 0.0

    @property
    def severity(self) -> Severity:
        """That of the worst section."""
        return max((finding.worst for finding in self.findings.values()), default=Severity.OK)

    @property
    def healthy(self) -> bool:
        """Do all sections do their work?"""
        return all(finding.is_healthy for finding in self.findings.values())

    def document(self, version: str, dismissed: Collection[str]) -> Document:
        """The whole; `dismissed` are sections, as the settings name them."""
        quiet = {SECTIONS.get(name, name) for name in dismissed}
        sections = {name: _section(finding, name in quiet) for name, finding in self.findings.items()}
        empty = {name: _section(HealthFinding(details=details), name in quiet) for name, details in EMPTY.items()}
        return {
            "time": moment(self.time),
            "healthy": self.healthy,
            "severity": self.severity.word,
            "coder_version": version,
            **empty,
            **sections,
        }


def _section(finding: HealthFinding, dismissed: bool) -> Document:
    document: Document = {
        **finding.details,
        "healthy": finding.is_healthy,
        "severity": finding.worst.word,
        "warnings": [_warning(warning) for warning in finding.warnings],
        "dismissed": dismissed,
    }
    if finding.error is not None:
        document["error"] = str(finding.error)
    return document


def _warning(warning: HealthWarning) -> Document:
    return {"code": warning.code, "message": warning.message}


def milliseconds(seconds: float) -> str:
    """A duration that Go's time.ParseDuration reads."""
    return f"{seconds * 1e3:.3f}ms"
