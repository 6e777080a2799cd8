"""Keeps the relay map up to date: asks the sources, merges, checks, remembers good answers, tells everybody."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio

from coder_agent.base.derp_map import DerpMap, DerpNode, DerpRegion, merge
from coder_agent.base.derp_map_json import from_json, to_json
from coder_agent.base.derp_map_rules import node_names
from coder_agent.errors import CoderAgentError, ConfigError, RemoteProtocolError
from coder_agent.hooks.interfaces import DerpMapSource

from .derp_map import LiveDerpMap
from .derp_map_text import MAX_PROBLEMS

logger = logging.getLogger("coder_agent.server")

FETCH_TIMEOUT = 15.0
"""Seconds for one look at one source, whatever it does."""
RETRY = (10.0, 600.0)
"""Seconds until a source that failed is asked again: the first time, and at most (doubled each time)."""
REMEMBERED = "derp-maps.json"
"""File in the data folder: what each source last said, for a start without it."""


def without_stun(derp_map: DerpMap) -> DerpMap:
    """Nobody is to use STUN: STUN-only nodes go, the others' STUN is switched off. Source: coder tailnet/derpmap.go."""

    def quiet(region: DerpRegion) -> DerpRegion:
        nodes: list[DerpNode] = [replace(node, stun_port=-1) for node in region.nodes if not node.stun_only]
        return replace(region, nodes=tuple(nodes))

    regions = {key: quiet(region) for key, region in derp_map.regions.items()}
    return replace(derp_map, regions={key: region for key, region in regions.items() if region.nodes})


def combine(own: DerpMap, parts: Mapping[str, DerpMap]) -> DerpMap:
    """Our own regions and what the sources said. Raises ConfigError if they clash or nobody could relay."""
    try:
        whole = merge(own, *parts.values())
    except ValueError as exc:
        raise ConfigError(str(exc), hint="--derp-server-region-id changes the embedded relay's") from exc
    twice = [f"{problem.message}; give one another name" for problem in node_names(whole)]
    if twice:  # each source was checked alone; latencies and health are kept by node name
        raise ConfigError("; ".join(twice[:MAX_PROBLEMS]))
    if not any(region.has_relay for region in whole.regions.values()):
        raise ConfigError(
            "the relay map has no relay: the embedded one is off and no other is known",
            hint="leave derp_server_enable on, or set --derp-config-url or --derp-config-path",
        )
    return whole


@dataclass(slots=True)
class DerpMapKeeper:
    """`start` once, then `run` until cancelled; `reload` asks all sources again.

    `own`: the server's part of the map. `adapt` is applied to what sources say (`without_stun`, or nothing).
    """

    own: DerpMap
    sources: Sequence[DerpMapSource]
    folder: Path
    adapt: Callable[[DerpMap], DerpMap] = lambda derp_map: derp_map
    live: LiveDerpMap = field(init=False)
    failures: dict[str, str] = field(default_factory=dict)
    """Sources that could not be asked the last time, and why."""
    _said: dict[str, DerpMap] = field(default_factory=dict)
    _reload: dict[str, anyio.Event] = field(default_factory=dict)

    async def start(self) -> LiveDerpMap:
        """The first map. A source that only cannot be reached is left for later, with a warning.

        Raises: ConfigError for what only the operator can mend: a wrong map, a clash, no relay at all.
        """
        remembered = await anyio.to_thread.run_sync(self._remembered)
        for source in self.sources:
            self._reload[source.name] = anyio.Event()
            try:
                self._said[source.name] = await self._ask(source)
            except ConfigError:
                raise
            except CoderAgentError as exc:
                self._failed(source, exc)
                if source.name in remembered:
                    self._said[source.name] = remembered[source.name]
        self.live = LiveDerpMap(combine(self.own, self._adapted(self._said)))
        await anyio.to_thread.run_sync(self._remember)
        return self.live

    async def run(self) -> None:
        """Look at every source again in its own time. Ends only when cancelled (at once if there is no source)."""
        async with anyio.create_task_group() as tasks:
            for source in self.sources:
                tasks.start_soon(self._follow, source)

    def reload(self) -> None:
        """Look at every source now."""
        for event in self._reload.values():
            event.set()

    async def _follow(self, source: DerpMapSource) -> None:
        retry = RETRY[0]
        while True:
            pause = retry if source.name in self.failures else source.refresh or float("inf")
            with anyio.move_on_after(pause):
                await self._reload[source.name].wait()
                retry = RETRY[0]
            self._reload[source.name] = anyio.Event()
            try:
                await self._take(source, await self._ask(source))
                retry = RETRY[0]
            except CoderAgentError as exc:
                self._failed(source, exc)
                retry = min(retry * 2, RETRY[1])

    async def _take(self, source: DerpMapSource, said: DerpMap) -> None:
        """Put what a source says in force, if the whole then still makes sense."""
        parts = {**self._said, source.name: said}
        whole = combine(self.own, self._adapted(parts))
        self.failures.pop(source.name, None)
        self._said = parts
        if whole != self.live.current:
            logger.info("the relay map changed (%s): regions %s", source.name, sorted(whole.regions))
            self.live.replace(whole)
            await anyio.to_thread.run_sync(self._remember)

    async def _ask(self, source: DerpMapSource) -> DerpMap:
        try:
            with anyio.fail_after(FETCH_TIMEOUT):
                return await source.fetch()
        except TimeoutError as exc:
            raise CoderAgentError(f"{source.name} did not answer within {FETCH_TIMEOUT:g} s") from exc
        except CoderAgentError:
            raise
        except Exception as exc:  # a plugin's bug must not cost the server its map
            logger.exception("the relay map source %s failed", source.name)
            raise CoderAgentError(f"{source.name} failed: {type(exc).__name__}: {exc}") from exc

    def _failed(self, source: DerpMapSource, error: CoderAgentError) -> None:
        kept = "its last good map stays in force" if source.name in self._said else "going on without it"
        if self.failures.get(source.name) != error.message:  # once per reason, not once per try
            logger.warning("relay map: %s; %s", error.message, kept)
        self.failures[source.name] = error.message

    def _adapted(self, parts: Mapping[str, DerpMap]) -> dict[str, DerpMap]:
        return {name: self.adapt(part) for name, part in parts.items()}

    # ------------------------------------------------------------ memory

    def _remembered(self) -> dict[str, DerpMap]:
        try:
            document = json.loads((self.folder / REMEMBERED).read_text("utf-8"))
            return {str(name): from_json(part) for name, part in document.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError, RemoteProtocolError) as exc:
            logger.warning("%s cannot be used: %s", self.folder / REMEMBERED, exc)
            return {}

    def _remember(self) -> None:
        """Replace the file at once or not at all: a crash must not leave half of it."""
        if not self._said:
            return
        target = self.folder / REMEMBERED
        new = target.with_suffix(".new")
        try:
            new.write_text(json.dumps({name: to_json(part) for name, part in self._said.items()}), "utf-8")
            new.replace(target)
        except OSError as exc:
            logger.warning("the relay map cannot be remembered in %s: %s", target, exc.strerror or exc)
