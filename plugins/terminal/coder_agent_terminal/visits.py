"""One viewer's visit to a terminal: from its opening message until it or the terminal ends."""

from __future__ import annotations

import logging

import anyio
import anyio.abc

from coder_agent.errors import RemoteProtocolError

from .protocol import Init, Start, UpwardReader
from .session import Session, Viewer
from .sessions import NoTerminal, Sessions

log = logging.getLogger(__name__)

INIT_TIMEOUT = 10.0
"""Seconds for the opening message, which one segment carries."""
LAST_TIMEOUT = 5.0
"""Seconds for a refusal to get away."""
_BROKEN = (anyio.BrokenResourceError, anyio.ClosedResourceError)


async def visit(stream: anyio.abc.ByteStream, sessions: Sessions) -> None:
    """Serve one viewer."""
    reader = UpwardReader()
    try:
        with anyio.fail_after(INIT_TIMEOUT):
            init = await _read_init(stream, reader)
    except (RemoteProtocolError, TimeoutError) as exc:
        log.info("terminal refused: %s", exc or "no opening message within the time allowed")
        await _say(stream, str(exc) or "no opening message within the time allowed")
        return
    except _BROKEN:
        return
    try:
        session, is_new = sessions.get(init)
    except NoTerminal as exc:
        log.info("terminal refused: %s", exc)
        await _say(stream, exc.message)
        return
    viewer = session.attach(marks=init.marks)
    try:
        await _view(stream, reader, session, viewer, is_new=is_new)
    except* _BROKEN:
        pass  # the viewer went; the terminal stays
    finally:
        session.detach(viewer)
    if viewer.lost:
        _abort(stream)


async def _view(
    stream: anyio.abc.ByteStream, reader: UpwardReader, session: Session, viewer: Viewer, *, is_new: bool
) -> None:
    """Both directions until one of them ends."""
    assert reader.init is not None
    if viewer.marks:
        await stream.send(Start(None if is_new else viewer.replayed).mark())
    if not is_new:
        session.resize(reader.init.size)
        session.process.ask_redraw()  # what is replayed may begin in the middle of a full screen
    async with anyio.create_task_group() as tasks:

        async def upward() -> None:
            await _take_input(stream, reader, session)
            tasks.cancel_scope.cancel()

        tasks.start_soon(upward)
        await session.show(viewer, stream)
        tasks.cancel_scope.cancel()


async def _read_init(stream: anyio.abc.ByteStream, reader: UpwardReader) -> Init:
    """The opening message. Raises RemoteProtocolError."""
    while reader.init is None:
        try:
            reader.feed(await stream.receive())
        except anyio.EndOfStream:
            reader.end()
    return reader.init


async def _take_input(stream: anyio.abc.ByteStream, reader: UpwardReader, session: Session) -> None:
    """Keystrokes and sizes until the viewer ends or breaks the rules, which costs only its own connection."""
    try:
        while True:
            while (message := reader.next()) is not None:
                session.resize(message.size)
                if message.data:
                    await session.type(message.data)
            reader.feed(await stream.receive())
    except anyio.EndOfStream:
        pass
    except RemoteProtocolError as exc:
        log.info("terminal %s: a viewer is let go: %s", session.id, exc)


async def _say(stream: anyio.abc.ByteStream, message: str) -> None:
    """Why there is no terminal, for the person who looks at the screen."""
    try:
        with anyio.move_on_after(LAST_TIMEOUT):
            await stream.send(f"\r\n[{message}]\r\n".encode())
    except _BROKEN:
        pass


def _abort(stream: anyio.abc.ByteStream) -> None:
    """A connection that does not read must not hold what it was sent."""
    abort = getattr(stream, "abort", None)
    if abort is not None:
        abort()
