"""What commands that serve until they are stopped share: their flags over settings, and signals."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import anyio
import anyio.abc
import typer


def flag(help_text: str, *names: str) -> typer.models.OptionInfo:
    """An option whose default is the setting's own, said in its help."""
    option: typer.models.OptionInfo = typer.Option(*names, help=help_text, show_default=False)
    return option


def raise_descriptor_limit() -> int:
    """Let this process have as many files and sockets as it may. Returns how many that is."""
    try:
        import resource
    except ImportError:  # Windows: there is no such limit
        return 1 << 20
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != most:
        with suppress(ValueError, OSError):  # macOS says "unlimited" and means less
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


@asynccontextmanager
async def stop_signal(reload: Callable[[], None]) -> AsyncIterator[anyio.Event]:
    """An event that SIGINT or SIGTERM sets; the next one kills. SIGHUP, where the system has it, calls `reload`."""
    stop = anyio.Event()

    async def watch(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        hangup = [signal.SIGHUP] if hasattr(signal, "SIGHUP") else []
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, *hangup) as signals:
            task_status.started()
            async for number in signals:
                if number in hangup:
                    reload()
                    continue
                stop.set()
                break
        for kind in (signal.SIGINT, signal.SIGTERM):
            signal.signal(kind, signal.SIG_DFL)

    async with anyio.create_task_group() as tasks:
        await tasks.start(watch)
        yield stop
        tasks.cancel_scope.cancel()
