"""Opening the database: made atomically, migrated before use, one writer at a time, one server per file."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from sqlalchemy import URL, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from coder_agent.errors import ConfigError

from .lock import FileLock
from .migrate import migrate_sqlite

BUSY_TIMEOUT_MS = 5_000
"""How long SQLite waits for a lock. Ours is the only writer; a backup tool may hold the file for a moment."""


class Database:
    """Hands out sessions. Reads run side by side (WAL); writes queue on one lock.

    SQLite has a single writer anyway: queueing here means that a transaction never fails half-way with SQLITE_BUSY
    because it read first and another one wrote in between.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._sessions = async_sessionmaker(engine, expire_on_commit=False)
        self._write_lock = anyio.Lock()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """A session for queries only. Objects stay usable afterwards.

        What was begun is ended: a cancelled query makes the driver close its connection in a task of its own, which
        may wait for ever. So a block is short, and waits for nothing but the database.
        """
        with anyio.CancelScope(shield=True):
            async with self._sessions() as session:
                yield session

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        """A session whose block is one transaction: committed at the end, rolled back on an exception."""
        async with self._write_lock:
            with anyio.CancelScope(shield=True):  # as in `read`
                async with self._sessions() as session, session.begin():
                    yield session


@asynccontextmanager
async def open_database(path: Path) -> AsyncIterator[Database]:
    """Open `path`, making and migrating it first.

    Raises: ConfigError, in one sentence, when the file cannot be used or another server has it.
    """
    lock = FileLock(path.with_name(path.name + ".lock"))
    await anyio.to_thread.run_sync(_prepare, path, lock)
    try:
        engine = create_async_engine(URL.create("sqlite+aiosqlite", database=str(path)))
        event.listen(engine.sync_engine, "connect", _configure_connection)
        event.listen(engine.sync_engine, "begin", _begin)
        try:
            yield Database(engine)
        finally:
            with anyio.CancelScope(shield=True):
                await engine.dispose()
    finally:
        lock.release()


def _prepare(path: Path, lock: FileLock) -> None:
    hint = "choose a writable folder with --data-dir or CODER_DATA_DIR"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock.acquire()
    except BlockingIOError as exc:
        raise ConfigError(
            f"another coder server is using the database {path}", hint="stop it, or give this one its own --data-dir"
        ) from exc
    except OSError as exc:
        raise ConfigError(f"cannot write the database {path}: {exc.strerror or exc}", hint=hint) from exc
    try:
        migrate_sqlite(path)
    except (OSError, sqlite3.Error, SQLAlchemyError) as exc:
        lock.release()
        cause = exc.__cause__ if isinstance(exc, SQLAlchemyError) and exc.__cause__ is not None else exc
        raise ConfigError(f"cannot use the database {path}: {cause}", hint=hint) from exc
    except BaseException:
        lock.release()
        raise


def _configure_connection(connection: Any, record: object) -> None:
    # The driver's own transaction handling begins one only before INSERT and friends, so that reads of one session
    # would not share a snapshot; `_begin` does it instead. Source: SQLAlchemy, SQLite dialect, "transaction control".
    connection.isolation_level = None
    cursor = connection.cursor()
    try:
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")  # a 201 must survive a power cut, and writes are rare
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    finally:
        cursor.close()


def _begin(connection: Any) -> None:
    connection.exec_driver_sql("BEGIN")
