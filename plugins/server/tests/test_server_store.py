"""The database: made whole or not at all, migrated, one server per file, nothing lost."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from uuid import uuid4

import anyio
import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from coder_agent_server.store import migrate
from coder_agent_server.store.accounts import NewUser, add_key, add_user, find_key, touch_key, user_count
from coder_agent_server.store.agents import find_agent_by_token, record_lifecycle, record_seen
from coder_agent_server.store.database import Database, open_database
from coder_agent_server.store.deployment import open_deployment
from coder_agent_server.store.schema import Agent, Base, DeploymentValue, User
from coder_agent_server.store.workspaces import NewAgent, add_workspace, delete_workspace
from sqlalchemy import create_engine, select, text

from coder_agent.errors import ConfigError

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ALICE = NewUser("Alice", "Alice@Example.org", "", "hash", is_owner=True)


async def test_a_new_database_is_complete_and_private(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "coder.db"
    async with open_database(path) as database, database.read() as session:
        assert await session.scalar(text("PRAGMA journal_mode")) == "wal"
        assert await session.scalar(text("PRAGMA foreign_keys")) == 1
        assert await user_count(session) == 0
    assert path.stat().st_mode & 0o077 == 0
    assert not path.with_name("coder.db.new").exists()


async def test_a_half_made_database_of_a_crash_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "coder.db.new").write_bytes(b"half")
    async with open_database(tmp_path / "coder.db") as database, database.read() as session:
        assert await user_count(session) == 0


async def test_what_was_written_is_there_again(tmp_path: Path) -> None:
    found = []
    for _ in range(2):
        async with open_database(tmp_path / "coder.db") as database, database.write() as session:
            found.append(await open_deployment(session, NOW))
    assert found[0] == found[1]
    assert found[0].resume_key.hex() not in repr(found[0])


async def test_an_exception_rolls_a_write_back(tmp_path: Path) -> None:
    async with open_database(tmp_path / "coder.db") as database:
        with pytest.raises(RuntimeError):
            await write_and_fail(database)
        async with database.read() as session:
            assert (await session.scalars(select(DeploymentValue))).all() == []


async def write_and_fail(database: Database) -> None:
    async with database.write() as session:
        session.add(DeploymentValue(name="a", value="b"))
        await session.flush()
        raise RuntimeError


async def test_concurrent_writers_take_turns(tmp_path: Path) -> None:
    async with open_database(tmp_path / "coder.db") as database:
        async with database.write() as session:
            session.add(DeploymentValue(name="n", value="0"))

        async def increment() -> None:
            async with database.write() as session:
                row = await session.get_one(DeploymentValue, "n")
                await anyio.lowlevel.checkpoint()
                row.value = str(int(row.value) + 1)

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(increment)
        async with database.read() as session:
            assert (await session.get_one(DeploymentValue, "n")).value == "20"


@pytest.mark.parametrize("age", ["new", "old"])
def test_the_migrations_lead_to_the_schema(tmp_path: Path, age: str) -> None:
    """A new file is made in one step, an old one by all migrations: both are the same in the end."""
    path = tmp_path / "coder.db"
    if age == "old":
        with closing(sqlite3.connect(path)) as connection:  # as empty as a database can be
            connection.execute("VACUUM")
    migrate.migrate_sqlite(path)
    fresh = tmp_path / "fresh.db"
    migrate.migrate_sqlite(fresh)
    assert _things_in(path) == _things_in(fresh)
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
        assert context.get_current_revision() == migrate.HEAD
    engine.dispose()
    config = Config()
    config.set_main_option("script_location", str(Path(migrate.__file__).with_name("migrations")))
    assert ScriptDirectory.from_config(config).get_current_head() == migrate.HEAD


def _things_in(path: Path) -> set[tuple[str, str, str]]:
    with closing(sqlite3.connect(path)) as connection:
        return set(connection.execute("SELECT type, name, tbl_name FROM sqlite_master"))


async def test_two_servers_cannot_share_a_database(tmp_path: Path) -> None:
    async with open_database(tmp_path / "coder.db"):
        with pytest.raises(ConfigError, match="another coder server"):
            async with open_database(tmp_path / "coder.db"):
                raise AssertionError("opened twice")
    async with open_database(tmp_path / "coder.db"):
        pass


@pytest.mark.parametrize("fault", ["a file in the way", "not a database", "newer", "read-only"])
async def test_an_unusable_database_is_one_sentence(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "data" / "coder.db"
    if fault == "a file in the way":
        (tmp_path / "data").write_text("x")
    else:
        path.parent.mkdir()
    if fault == "not a database":
        path.write_bytes(b"this is text, not a database, and long enough to be told apart" * 20)
    if fault == "newer":
        migrate.migrate_sqlite(path)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("UPDATE alembic_version SET version_num = '9999'")
            connection.commit()
    if fault == "read-only":
        if os.geteuid() == 0:
            path.mkdir()  # root may write anywhere, but not into a folder as if it were a file
        else:
            path.parent.chmod(0o500)
    with pytest.raises(ConfigError, match="database") as error:
        async with open_database(path):
            raise AssertionError("opened")
    assert "\n" not in error.value.message
    assert error.value.hint
    if fault == "newer":
        assert "newer version" in error.value.message


async def test_keys_expire_sessions_slide_and_tokens_do_not(tmp_path: Path) -> None:
    async with open_database(tmp_path / "coder.db") as database, database.write() as session:
        await open_deployment(session, NOW)
        user = await add_user(session, ALICE, NOW)
        assert (user.username, user.email) == ("alice", "alice@example.org")
        day = timedelta(days=1)
        login = await add_key(session, user, day, NOW, login_type="password")
        token = await add_key(session, user, day, NOW, login_type="token", token_name="ci")
        later = NOW + timedelta(hours=20)
        for made, expires_at in ((login, later + day), (token, NOW + day)):
            await touch_key(session, made.id, later)
            found = await find_key(session, made.id)
            assert found is not None
            assert (found[0].expires_at, found[0].last_used) == (expires_at, later)
            assert made.secret.encode() not in found[0].secret_hash
        much_later = NOW + timedelta(days=3)
        await add_key(session, user, day, much_later, login_type="password")
        assert await find_key(session, login.id) is None  # what has expired is cleared away by the next key


async def test_an_agent_is_found_by_its_token_and_goes_with_its_workspace(tmp_path: Path) -> None:
    async with open_database(tmp_path / "coder.db") as database:
        async with database.write() as session:
            await open_deployment(session, NOW)
            user = await add_user(session, ALICE, NOW)
            workspace, token = await add_workspace(session, user, "dev", NewAgent("main"), NOW)
            found = await find_agent_by_token(session, token)
            assert found is not None
            assert found.workspace.owner.username == "alice"
            assert await find_agent_by_token(session, uuid4()) is None
            await record_seen(session, {found.id: NOW + timedelta(seconds=1)})
        async with database.write() as session:
            assert (await session.get_one(Agent, found.id)).last_connected_at == NOW + timedelta(seconds=1)
            assert await delete_workspace(session, workspace.id) == [found.id]
            assert await delete_workspace(session, workspace.id) == []
        async with database.read() as session:
            assert await find_agent_by_token(session, token) is None


async def test_ready_implies_started_and_a_new_start_begins_again(tmp_path: Path) -> None:
    async with open_database(tmp_path / "coder.db") as database, database.write() as session:
        await open_deployment(session, NOW)
        user = await add_user(session, ALICE, NOW)
        workspace, _ = await add_workspace(session, user, "dev", NewAgent("main"), NOW)
        agent = await session.get_one(Agent, workspace.agents[0].id)
        await record_lifecycle(session, agent.id, "ready", NOW)
        assert (agent.lifecycle_state, agent.started_at, agent.ready_at) == ("ready", NOW, NOW)
        again = NOW + timedelta(hours=1)
        await record_lifecycle(session, agent.id, "starting", again)
        assert (agent.started_at, agent.ready_at) == (again, None)


async def test_times_come_back_in_utc_and_naive_ones_are_refused(tmp_path: Path) -> None:
    async with open_database(tmp_path / "coder.db") as database:
        async with database.write() as session:
            await open_deployment(session, NOW)
            user = await add_user(session, ALICE, NOW.astimezone(timezone(timedelta(hours=5))))
        async with database.read() as session:
            stored = await session.get_one(User, user.id)
            assert stored.created_at == NOW
            assert stored.created_at.utcoffset() == timedelta(0)
        with pytest.raises(Exception, match="time zone"):
            async with database.write() as session:
                (await session.get_one(User, user.id)).last_seen_at = datetime(2026, 1, 1)
