"""PostgreSQL in the local stack: the primary, its roles and database, and a streaming standby."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import asyncpg
import psutil

from infra.local.addresses import LOOPBACK, free_port
from infra.local.folder import DataFolder
from infra.local.parts import NotReadyError, Part
from infra.local.processes import end_all, run_to_end
from infra.local.secret_files import read_secret
from infra.local.servers import Servers

SUPERUSER: Final = "postgres"
DATABASE: Final = "tercet"
SLOT: Final = "standby"
CONNECT_TIMEOUT_S: Final = 2.0

DROP_SLOT: Final = (
    "select pg_drop_replication_slot(slot_name) from pg_replication_slots"
    " where slot_name = 'standby' and not active"
)
MAKE_SLOT: Final = (
    "select pg_create_physical_replication_slot('standby', true)"
    " where not exists (select from pg_replication_slots where slot_name = 'standby')"
)

# What a standby says when its data can never follow this primary again, and a new copy can.
LOST_PATTERN: Final = re.compile(
    rb"requested WAL segment \S+ has already been removed"
    rb"|is ahead of the WAL flush position of this server"
    rb"|database system identifier differs"
    rb"|is behind recovery timeline|is not a child of|forked off current database system timeline"
    rb'|can no longer (?:get changes|access) |replication slot "\w+" has been invalidated'
    rb"|invalid primary checkpoint record|could not locate a valid checkpoint record"
    rb"|PANIC:|incorrect resource manager data checksum|not a valid data directory"
)
SLOT_MISSING_PATTERN: Final = re.compile(rb'replication slot "\w+" does not exist')
REMAKE_AFTER_FAILED_STARTS: Final = 2


async def connect(host: str, port: int, secrets: Path, database: str = DATABASE) -> Any:
    """A connection as superuser, for the supervisor's own questions."""
    try:
        return await asyncpg.connect(
            host=host,
            port=port,
            user=SUPERUSER,
            password=read_secret(secrets, "superuser_password"),
            database=database,
            timeout=CONNECT_TIMEOUT_S,
            ssl=False,
            statement_cache_size=0,
        )
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise NotReadyError(str(error)) from None


@dataclass
class PostgresServer(Part):
    """What the primary and a standby have in common."""

    folder: DataFolder = field(kw_only=True)
    servers: Servers = field(kw_only=True)
    port: int = field(kw_only=True)

    def __post_init__(self) -> None:
        self.identity = self.servers.identity
        self.stop_signal = signal.SIGINT  # fast shutdown; SIGTERM would wait for clients
        self.death_signal = signal.SIGINT  # a clean end even when the supervisor was killed
        self.address = f"{LOOPBACK}:{self.port}"

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.folder.root / self.name

    @property
    def log_file(self) -> Path:
        """Where the server and the programs that prepare it write."""
        return self.folder.log / f"{self.name}.log"

    def command(self) -> Sequence[str]:
        options = {
            "config_file": str(self.servers.postgres_conf / f"{self.name}.conf"),
            "hba_file": str(self.servers.postgres_conf / "pg_hba.conf"),
            "listen_addresses": LOOPBACK,
            "port": str(self.port),
            "unix_socket_directories": "",
            **self.options(),
        }
        settings = [item for key, value in options.items() for item in ("-c", f"{key}={value}")]
        return [str(self.servers.postgres_bin / "postgres"), "-D", str(self.data), *settings]

    def options(self) -> Mapping[str, str]:
        """Settings that only this server gets."""
        return {}

    def environment(self) -> Mapping[str, str]:
        # Nothing of the user's own PG… variables; the passwords come from a file.
        return {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "LC_ALL": "C",
            "PGPASSFILE": str(self.passwords_file),
        }

    @property
    def passwords_file(self) -> Path:
        """libpq's password file, for this server and the programs that prepare it."""
        return self.folder.run / f"{self.name}.pgpass"

    async def ask(self, query: str) -> Any:
        """The first row of a query as superuser; NotReadyError when there is no answer."""
        connection = await connect(LOOPBACK, self.port, self.folder.secrets, "postgres")
        try:
            return await connection.fetchrow(query, timeout=CONNECT_TIMEOUT_S)
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise NotReadyError(str(error)) from None
        finally:
            connection.terminate()

    def died_before_ready(self, times: int) -> None:
        if not self.has_been_ready:  # another program may have taken the port that was free
            self.port = free_port()
            self.address = f"{LOOPBACK}:{self.port}"

    async def make(self, program: str, *arguments: str, final: Path) -> None:
        """Make a data directory with a program: complete under its name, or not there at all."""
        fresh = final.with_name(final.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        self.servers.own(fresh)
        code = await run_to_end(
            [str(self.servers.postgres_bin / program), "-D", str(fresh), *arguments],
            environment=self.environment(),
            log_file=self.log_file,
            cwd=self.folder.root,
            identity=self.identity,
        )
        if code != 0:
            raise NotReadyError(f"{program} ended with exit code {code}")
        shutil.rmtree(final, ignore_errors=True)
        fresh.rename(final)

    def write_passwords(self) -> None:
        """Write the password file, only for the user that the server runs as."""
        lines = (
            f"*:*:*:{user}:{read_secret(self.folder.secrets, name)}\n"
            for user, name in (
                (SUPERUSER, "superuser_password"),
                ("tercet_replication", "replication_password"),
            )
        )
        fresh = self.passwords_file.with_suffix(".new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.writelines(lines)
        self.servers.own(fresh)
        fresh.replace(self.passwords_file)

    def take_over(self) -> None:
        """End a server that still runs on this data, and forget the note of one that does not.

        The folder's lock is ours, so nobody else may use the data. PostgreSQL itself refuses to
        start when the process id in its note belongs to anything alive.
        """
        if self.data.exists():
            self.servers.own(self.data)  # the last run may have been as another user
        note = self.data / "postmaster.pid"
        with suppress(OSError, ValueError, IndexError, psutil.Error):
            process = psutil.Process(int(note.read_text().split("\n")[0]))
            if process.name() == "postgres" and process.cwd() == str(self.data.resolve()):
                end_all([process])
        note.unlink(missing_ok=True)


@dataclass
class Primary(PostgresServer):
    """The one server that is written to."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.stop_grace_s = 4.0  # it writes out what is changed in memory, and stops last

    async def prepare(self) -> None:
        self.write_passwords()
        self.take_over()
        if (self.data / "PG_VERSION").exists():
            return
        first_password = self.folder.run / "superuser_password"
        first_password.touch(mode=0o600)
        first_password.write_text(read_secret(self.folder.secrets, "superuser_password"))
        self.servers.own(first_password)
        try:
            await self.make(
                "initdb",
                f"--username={SUPERUSER}",
                f"--pwfile={first_password}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--no-locale",
                "--no-instructions",
                final=self.data,
            )
        finally:
            first_password.unlink()

    async def check(self) -> str:
        row = await self.ask("select pg_is_in_recovery() as recovery")
        return "read only" if row["recovery"] else "accepts writes"


@dataclass
class Standby(PostgresServer):
    """A copy that follows the primary through a replication slot, and is made anew when lost."""

    primary: Primary = field(kw_only=True)
    _log_start: int = field(default=0, init=False)
    _remake: str = field(default="", init=False)

    async def prepare(self) -> None:
        self.write_passwords()
        self.take_over()
        if not (self.data / "PG_VERSION").exists():
            self._remake = self._remake or "there is none yet"
        if self._remake:
            await self._make_copy()
        self._log_start = self.log_file.stat().st_size if self.log_file.exists() else 0

    def options(self) -> Mapping[str, str]:
        return {"primary_conninfo": self._primary_conninfo, "primary_slot_name": SLOT}

    @property
    def _primary_conninfo(self) -> str:
        return (
            f"host={LOOPBACK} port={self.primary.port} user=tercet_replication "
            f"passfile='{_quoted(self.passwords_file)}' application_name={self.name}"
        )

    async def _make_copy(self) -> None:
        self._say(f"a fresh copy of the primary is being made: {self._remake}")
        await self.primary.check()
        await self._make_slot(anew=True)
        await self.make(
            "pg_basebackup",
            "--write-recovery-conf",
            f"--slot={SLOT}",
            "--wal-method=stream",
            "--checkpoint=fast",
            "--no-password",
            f"--dbname={self._primary_conninfo}",
            final=self.data,
        )
        self._remake = ""

    async def _make_slot(self, *, anew: bool) -> None:
        if anew:
            await self.primary.ask(DROP_SLOT)
        await self.primary.ask(MAKE_SLOT)

    async def check(self) -> str:
        try:
            row = await self.ask(
                "select pg_is_in_recovery() as recovery,"
                " (select status from pg_stat_wal_receiver) as receiver,"
                " pg_wal_lsn_diff(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())::bigint"
                " as behind_bytes"
            )
        except (OSError, NotReadyError):
            await self._heal()
            raise
        if not row["recovery"]:
            return "promoted: it is no standby any more"
        if row["receiver"] != "streaming":
            await self._heal()
            raise NotReadyError("does not stream from the primary")
        return f"streaming, {max(0, row['behind_bytes'] or 0)} bytes behind"

    async def _heal(self) -> None:
        """Read from its log why it does not stream; make the slot, or end it to be copied anew."""
        said = self._said()
        if SLOT_MISSING_PATTERN.search(said):
            with suppress(OSError, NotReadyError):
                await self._make_slot(anew=False)
        lost = LOST_PATTERN.search(said)
        if lost and self.process and not self._remake:
            self._remake = f"the one there can not follow ({lost.group().decode()})"
            self.process.send_signal(signal.SIGINT)

    def _said(self) -> bytes:
        try:
            with self.log_file.open("rb") as log:
                log.seek(self._log_start)
                return log.read(1 << 20)
        except OSError:
            return b""

    def died_before_ready(self, times: int) -> None:
        super().died_before_ready(times)
        if times >= REMAKE_AFTER_FAILED_STARTS and not self._remake:
            self._remake = f"the one there did not start {times} times"

    def _say(self, text: str) -> None:
        with self.log_file.open("a") as log:
            log.write(f"tercet: {text}\n")


def _quoted(path: Path) -> str:
    """A path inside the quotes of a libpq connection string."""
    return str(path).replace("\\", "\\\\").replace("'", "\\'")


@dataclass
class Bootstrap(Part):
    """The task that makes roles, database and extensions, the same file as Docker runs."""

    primary: Primary = field(kw_only=True)

    def command(self) -> Sequence[str]:
        return [
            str(self.primary.servers.postgres_bin / "psql"),
            "--no-psqlrc",
            "--no-password",
            f"--dbname=host={LOOPBACK} port={self.primary.port} user={SUPERUSER} dbname=postgres",
            f"--file={self.primary.servers.postgres_conf / 'bootstrap.sql'}",
        ]

    def environment(self) -> Mapping[str, str]:
        passwords = self.primary.folder.run / "bootstrap.pgpass"
        return {
            **self.primary.environment(),
            "PGPASSFILE": str(passwords),
            "TERCET_SECRETS_DIR": str(self.primary.folder.secrets),
        }

    async def prepare(self) -> None:
        folder = self.primary.folder
        passwords = folder.run / "bootstrap.pgpass"
        passwords.touch(mode=0o600)
        password = read_secret(folder.secrets, "superuser_password")
        passwords.write_text(f"*:*:*:{SUPERUSER}:{password}\n")
