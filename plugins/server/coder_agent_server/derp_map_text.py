"""A relay map as somebody wrote it: from JSON text to a checked map, with sentences about what is wrong where."""

from __future__ import annotations

import json
import logging

from coder_agent.base.derp_map import DerpMap
from coder_agent.base.derp_map_json import from_json
from coder_agent.base.derp_map_rules import validate
from coder_agent.errors import ConfigError, RemoteProtocolError

logger = logging.getLogger("coder_agent.server")

MAX_TEXT = 1 << 20
"""Bytes. Tailscale's map of its whole fleet has some 40 kB."""
MAX_PROBLEMS = 5
"""Errors named in one message: the rest shows up when these are mended."""


def parse_map(text: str | bytes, origin: str) -> DerpMap:
    """Read and check a map; `origin` says in messages where it came from. Warnings go to the log.

    Raises: ConfigError naming what is wrong: bad JSON with line and column, wrong types, rules broken.
    """
    if len(text) > MAX_TEXT:
        raise ConfigError(f"{origin} is larger than {MAX_TEXT} bytes: that is no relay map")
    try:
        document = json.loads(text)
    except json.JSONDecodeError as exc:
        raise ConfigError(
            f"{origin} is not JSON: {exc.msg.lower()} at line {exc.lineno}, column {exc.colno}", hint=_hint(text)
        ) from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{origin} is not UTF-8 text: byte {exc.start} cannot be read") from exc
    except RecursionError as exc:
        raise ConfigError(f"{origin} is nested too deeply to be a relay map") from exc
    try:
        found = from_json(document)
    except RemoteProtocolError as exc:
        raise ConfigError(f"{origin}: {exc.message}") from exc
    if not found.regions:
        raise ConfigError(
            f"{origin} has no regions", hint='a relay map is {"Regions": {"901": {"RegionID": 901, "Nodes": […]}}}'
        )
    problems = validate(found)
    for problem in problems:
        if problem.severity == "warning":
            logger.warning("%s: %s", origin, problem.message)
    errors = [problem.message for problem in problems if problem.severity == "error"]
    if errors:
        more = f" (and {len(errors) - MAX_PROBLEMS} more)" if len(errors) > MAX_PROBLEMS else ""
        raise ConfigError(f"{origin}: {'; '.join(errors[:MAX_PROBLEMS])}{more}")
    return found


def _hint(text: str | bytes) -> str | None:
    start = text[:200].lstrip()
    begins = start.decode("latin-1") if isinstance(start, bytes) else start
    if begins.startswith("<"):
        return "it looks like a web page: is this the address of the JSON file itself?"
    return None
