"""Bring a SQLite file to the newest revision. A new file appears complete or not at all."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, create_engine, event

HEAD = "0004"
"""The newest revision. Compared before Alembic is imported: it costs 0.2 s, and most starts find nothing to do."""

_MIGRATIONS = Path(__file__).with_name("migrations")


def migrate_sqlite(path: Path) -> None:
    """Create or upgrade the database at `path`. Blocks; run it in a thread.

    A new database is made under another name and renamed when it is complete and on disk, so that a crash leaves
    either nothing or a usable file. An old one is upgraded in one transaction.

    Raises: OSError, sqlite3.Error, sqlalchemy.exc.SQLAlchemyError.
    """
    if path.exists():
        with closing(sqlite3.connect(path)) as connection:
            _check_writable(connection)
            revision = _revision(connection)
        if revision != HEAD:
            _upgrade(path)
        return
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)  # left over from a crash; ours alone, for we hold the lock
    os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    _create(fresh)
    _sync(fresh)
    fresh.replace(path)
    _sync(path.parent)


def _check_writable(connection: sqlite3.Connection) -> None:
    """Fail now, with SQLite's own words, rather than at the first sign-in."""
    connection.execute("BEGIN IMMEDIATE")
    connection.rollback()


def _revision(connection: sqlite3.Connection) -> str | None:
    known = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone()
    if known is None:
        return None
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return None if row is None else str(row[0])


def _create(path: Path) -> None:
    """The newest schema in an empty file, without Alembic: a server that was just set up has 11 MB less in memory."""
    from .schema import Base

    with _transaction(path) as connection:
        Base.metadata.create_all(connection)
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
        connection.exec_driver_sql("INSERT INTO alembic_version VALUES (?)", (HEAD,))


def _upgrade(path: Path) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    try:
        with _transaction(path) as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except CommandError as exc:
        raise sqlite3.DatabaseError(f"it was written by a newer version ({exc})") from exc


@contextmanager
def _transaction(path: Path) -> Iterator[Connection]:
    """One transaction, which also holds what SQLite's driver would not put into one: tables."""
    engine = create_engine(URL.create("sqlite", database=str(path)))

    @event.listens_for(engine, "connect")
    def _manual_transactions(connection: Any, record: object) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


def _sync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to disk. Windows cannot open folders and needs no such call."""
    if os.name == "nt" and path.is_dir():
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
