"""All terminals of an agent, by the identity that their viewers chose."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING
from uuid import UUID

import anyio
import anyio.abc

from coder_agent.errors import CoderAgentError
from coder_agent.hooks import AgentFacts

from .environment import login_shell, shell_command, shell_environment, start_directory
from .protocol import Init
from .session import Session
from .settings import TerminalSettings

if TYPE_CHECKING:  # an agent without terminals shall not pay for processes
    from .pty_process import PtyProcess

log = logging.getLogger(__name__)


class NoTerminal(CoderAgentError):
    """The terminal that was asked for cannot be had; the message is shown in it."""


class Sessions:
    """Starts terminals and finds them again. They run in `tasks`, and end when it is cancelled."""

    def __init__(self, settings: TerminalSettings, facts: Callable[[], AgentFacts], tasks: anyio.abc.TaskGroup) -> None:
        self._settings = settings
        self._facts = facts
        self._sessions: dict[UUID, Session] = {}
        self._tasks: anyio.abc.TaskGroup | None = tasks

    def __len__(self) -> int:
        return len(self._sessions)

    def stop(self) -> None:
        """Start no more."""
        self._tasks = None

    def get(self, init: Init) -> tuple[Session, bool]:
        """The terminal with that identity, and whether it is new. Raises NoTerminal."""
        session = self._sessions.get(init.id)
        if session is not None and session.ended is None:
            if session.viewers >= self._settings.max_viewers:
                raise NoTerminal(f"this terminal already has {session.viewers} viewers: close one of them first")
            return session, False
        return self._start(init), True

    def _start(self, init: Init) -> Session:
        if self._tasks is None:
            raise NoTerminal("the agent is stopping")
        if init.container:
            raise NoTerminal("this agent opens no terminals inside containers")
        if len(self._sessions) >= self._settings.max_sessions:
            raise NoTerminal(
                f"this agent has {len(self._sessions)} terminals open already: end one (exit), or wait until one that "
                f"nobody looks at ends by itself after {self._settings.idle_timeout:g} s"
            )
        session = Session(init.id, self._spawn(init), idle_timeout=self._settings.idle_timeout)
        self._sessions[init.id] = session
        self._tasks.start_soon(self._run, session)
        log.info("terminal %s: started (%s)", init.id, init.command.partition(" ")[0] or "login shell")
        return session

    def _spawn(self, init: Init) -> PtyProcess:
        from .pty_process import PtyProcess

        facts = self._facts()
        shell = login_shell(self._settings.shell)
        try:
            return PtyProcess.start(
                shell_command(shell, init.command),
                env=shell_environment(facts, shell),
                directory=start_directory(facts),
                size=init.size,
            )
        except OSError as exc:
            raise NoTerminal(f"no terminal could be started: {exc.strerror or exc}") from exc

    async def _run(self, session: Session) -> None:
        try:
            await session.run()
        except Exception:
            log.exception("terminal %s failed", session.id)
        finally:
            if self._sessions.get(session.id) is session:
                del self._sessions[session.id]
            end = session.ended
            log.info("terminal %s: %s", session.id, "ended" if end is None else f"{end.how}, status {end.status}")
