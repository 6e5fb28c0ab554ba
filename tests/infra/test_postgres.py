"""The embedded PostgreSQL: roles, a standby that follows, and one that has to be made anew."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from tests.running_stack import RunningStack, running_stack

WAIT_S = 20.0
SERVERS = "--servers-only"


@pytest.fixture(scope="module")
def servers(
    tmp_path_factory: pytest.TempPathFactory, server_folder: Callable[[Path], Path]
) -> Iterator[RunningStack]:
    data_dir = server_folder(tmp_path_factory.mktemp("servers") / "data")
    with running_stack(data_dir, SERVERS) as running:
        yield running


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def test_the_standby_is_in_recovery_and_streams_through_its_slot(
    servers: RunningStack,
) -> None:
    standby = await asyncpg.connect(servers.dsn("tercet_read", "standby"))
    assert await standby.fetchval("select pg_is_in_recovery()")
    await standby.close()
    primary = await asyncpg.connect(servers.dsn("postgres"))
    row = await primary.fetchrow(
        "select s.slot_name, s.active, r.state from pg_replication_slots s"
        " join pg_stat_replication r on r.pid = s.active_pid"
    )
    await primary.close()
    assert row is not None
    assert tuple(row) == ("standby", True, "streaming")


@pytest.mark.parametrize("role", ["tercet_app", "tercet_read"])
async def test_the_application_may_not_change_the_schema(servers: RunningStack, role: str) -> None:
    connection = await asyncpg.connect(servers.dsn(role))
    with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.ReadOnlySQLTransactionError)):
        await connection.execute("create table public.mine (id int)")
    await connection.close()


async def test_a_wrong_password_is_refused(servers: RunningStack) -> None:
    place = servers.part("primary")["address"]
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(f"postgresql://tercet_app:wrong@{place}/tercet")


async def test_the_extensions_are_there(servers: RunningStack) -> None:
    connection = await asyncpg.connect(servers.dsn("tercet_app"))
    names = {row[0] for row in await connection.fetch("select extname from pg_extension")}
    await connection.close()
    assert {"pg_trgm", "btree_gist", "unaccent", "pg_stat_statements"} <= names


async def test_passwords_are_neither_in_the_logs_nor_on_a_command_line(
    servers: RunningStack,
) -> None:
    files = [*servers.folder.log.iterdir(), servers.folder.state_file]
    text = b"".join(path.read_bytes() for path in files)
    for pid in (part["pid"] for part in servers.state["parts"] if part["pid"]):
        text += " ".join(psutil.Process(pid).cmdline()).encode()
    for secret in servers.folder.secrets.iterdir():
        assert secret.read_bytes() not in text


async def test_killed_servers_come_back_with_their_data(servers: RunningStack) -> None:
    connection = await asyncpg.connect(servers.dsn("postgres"))
    await connection.execute("create table public.kept as select 42 as number")
    await connection.close()
    for name in ("valkey", "standby", "primary"):
        before = servers.part(name)
        os.kill(before["pid"], signal.SIGKILL)
        await until(
            lambda name=name, before=before: (  # type: ignore[misc]
                servers.part(name)["restarts"] == before["restarts"] + 1
                and servers.part(name)["state"] == "running"
            )
        )
        assert servers.part(name)["last_exit"] == "killed by SIGKILL"
        assert servers.part(name)["address"] == before["address"]
    connection = await asyncpg.connect(servers.dsn("postgres"))
    assert await connection.fetchval("select number from public.kept") == 42
    await connection.close()


@pytest.mark.faults
async def test_a_folder_may_have_quotes_and_backslashes_in_its_name(
    tmp_path: Path, server_folder: Callable[[Path], Path]
) -> None:
    data_dir = server_folder(tmp_path / 'it\'s a "da\\ta" folder')
    shutil.rmtree(data_dir / "standby")
    with running_stack(data_dir, SERVERS) as stack:
        assert "streaming" in stack.part("standby")["detail"]


@pytest.mark.faults
async def test_a_standby_that_can_not_follow_is_made_anew(
    tmp_path: Path, server_folder: Callable[[Path], Path]
) -> None:
    """Its data belongs to another primary: the one that was there before."""
    data_dir = server_folder(tmp_path / "data")
    shutil.rmtree(data_dir / "primary")
    with running_stack(data_dir, SERVERS) as stack:
        assert "streaming" in stack.part("standby")["detail"]
        log = (data_dir / "log" / "standby.log").read_text()
        assert "a fresh copy of the primary is being made: the one there can not follow" in log


@pytest.mark.faults
async def test_a_standby_with_damaged_files_is_made_anew(
    tmp_path: Path, server_folder: Callable[[Path], Path]
) -> None:
    data_dir = server_folder(tmp_path / "data")
    (data_dir / "standby" / "global" / "pg_control").unlink()
    with running_stack(data_dir, SERVERS) as stack:
        assert "streaming" in stack.part("standby")["detail"]


@pytest.mark.faults
async def test_a_standby_whose_slot_is_gone_gets_one_again(
    tmp_path: Path, server_folder: Callable[[Path], Path]
) -> None:
    data_dir = server_folder(tmp_path / "data")
    shutil.rmtree(data_dir / "primary" / "pg_replslot" / "standby")
    with running_stack(data_dir, SERVERS) as stack:
        assert "streaming" in stack.part("standby")["detail"]
        said = (data_dir / "log" / "standby.log").read_text()
        assert said.count("a fresh copy of the primary") == 1  # the first one
