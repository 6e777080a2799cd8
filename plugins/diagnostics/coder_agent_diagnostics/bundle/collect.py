"""Ask every diagnostic for its file, all at once; one that fails costs only itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import anyio

from coder_agent.cli.redact import STARS, redact
from coder_agent.errors import CoderAgentError
from coder_agent.hooks.diagnostics import Diagnostic

TIMEOUT = 30.0
"""Seconds for one file. The slowest is the server's health report: a relay that does not answer takes ten."""
MAX_FILE = 4 << 20
"""Bytes of one file; more is cut, and says so. The largest real one is a debug log of some 100 kB."""
SECRET_KEYS = ("token", "secret", "password", "private_key", "mesh_key", "cookie", "authorization")
"""Words in the name of a field whose value nobody else needs."""


@dataclass(frozen=True, slots=True)
class Collected:
    """One file of the bundle; `problem` says why it holds nothing else."""

    name: str
    text: str
    problem: str = ""


async def collect(
    diagnostics: Sequence[Diagnostic], say: Callable[[Collected], None] = lambda one: None
) -> list[Collected]:
    """All files, in the order of their names. `say` is told of each as it is done."""
    done: list[Collected] = []

    async def one(diagnostic: Diagnostic) -> None:
        found = await _collect(diagnostic)
        done.append(found)
        say(found)

    async with anyio.create_task_group() as tasks:
        for diagnostic in diagnostics:
            tasks.start_soon(one, diagnostic)
    return sorted(done, key=lambda found: found.name)


async def _collect(diagnostic: Diagnostic) -> Collected:
    name = safe_name(diagnostic.name)
    try:
        with anyio.fail_after(TIMEOUT):
            return Collected(name, as_text(await diagnostic.collect()))
    except TimeoutError:
        problem = f"given up after {TIMEOUT:g} s"
    except CoderAgentError as error:
        problem = f"{error.message}{f' ({error.hint})' if error.hint else ''}"
    except Exception as error:  # a plugin's bug is worth a line in the bundle, and not the bundle
        problem = f"{type(error).__name__}: {error}"
    return Collected(name, redact(f"not collected: {problem}\n"), redact(problem))


def safe_name(name: str) -> str:
    """`name` as a path inside the archive that leads nowhere else."""
    parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..", ".")]
    return "/".join(parts) or "unnamed.txt"


def as_text(value: object) -> str:
    """A file's content without secrets: text as it is, anything else as JSON."""
    text = value if isinstance(value, str) else json.dumps(without_secrets(value), indent=2, ensure_ascii=False)
    text = redact(text)
    if len(text.encode()) > MAX_FILE:
        text = text.encode()[:MAX_FILE].decode("utf-8", "ignore") + "\n… cut here: the file was larger\n"
    return text if text.endswith("\n") else text + "\n"


def without_secrets(value: object) -> object:
    """A copy for JSON in which fields that are named like secrets hold stars."""
    if isinstance(value, dict):
        return {str(key): STARS if _is_secret(key, item) else without_secrets(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [without_secrets(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _is_secret(key: object, value: object) -> bool:
    name = str(key).lower()
    return isinstance(value, (str, bytes)) and bool(value) and any(word in name for word in SECRET_KEYS)
