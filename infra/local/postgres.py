"""A PostgreSQL server of the local stack: its program, its folder, and questions to it."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
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
CONNECT_TIMEOUT_S: Final = 2.0


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
            "config_file": str(self.servers.postgres_conf / self.configuration),
            "hba_file": str(self.servers.postgres_conf / "pg_hba.conf"),
            "listen_addresses": LOOPBACK,
            "port": str(self.port),
            "unix_socket_directories": "",
        }
        settings = [item for key, value in options.items() for item in ("-c", f"{key}={value}")]
        return [str(self.servers.postgres_bin / "postgres"), "-D", str(self.data), *settings]

    @property
    def configuration(self) -> str:
        """The file of settings it is started with."""
        raise NotImplementedError

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

    async def ask(self, query: str, *args: object) -> Any:
        """The first row of a query as superuser; NotReadyError when there is no answer."""
        connection = await connect(LOOPBACK, self.port, self.folder.secrets, "postgres")
        try:
            return await connection.fetchrow(query, *args, timeout=CONNECT_TIMEOUT_S)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
            raise NotReadyError(str(error)) from None
        finally:
            connection.terminate()

    async def alter(self, setting: str, value: str) -> None:
        """Change a setting of the running server for good: of this one and its next starts."""
        connection = await connect(LOOPBACK, self.port, self.folder.secrets, "postgres")
        try:
            literal = await connection.fetchval("select quote_literal($1::text)", value)
            await connection.execute(f"alter system set {setting} = {literal}")
            await connection.execute("select pg_reload_conf()")
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise NotReadyError(str(error)) from None
        finally:
            connection.terminate()

    def write_settings(self, settings: Mapping[str, str]) -> None:
        """The same for a server that does not run."""
        file = self.data / "postgresql.auto.conf"
        lines = file.read_text().splitlines() if file.exists() else []
        kept = [line for line in lines if line.partition("=")[0].strip() not in settings]
        kept += [f"{name} = '{_escaped(value)}'" for name, value in settings.items()]
        file.write_text("".join(f"{line}\n" for line in kept))
        self.servers.own(file)

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
class Bootstrap(Part):
    """The task that makes roles, database and extensions, the same file as Docker runs."""

    primary: Callable[[], PostgresServer] = field(kw_only=True)

    def command(self) -> Sequence[str]:
        return [
            str(self.primary().servers.postgres_bin / "psql"),
            "--no-psqlrc",
            "--no-password",
            f"--dbname=host={LOOPBACK} port={self.primary().port} user={SUPERUSER} dbname=postgres",
            f"--file={self.primary().servers.postgres_conf / 'bootstrap.sql'}",
        ]

    def environment(self) -> Mapping[str, str]:
        passwords = self.primary().folder.run / "bootstrap.pgpass"
        return {
            **self.primary().environment(),
            "PGPASSFILE": str(passwords),
            # Where a COMMIT waits for a standby, none follows before the roles are there.
            "PGOPTIONS": "-c synchronous_commit=local",
            "TERCET_SECRETS_DIR": str(self.primary().folder.secrets),
        }

    async def prepare(self) -> None:
        folder = self.primary().folder
        passwords = folder.run / "bootstrap.pgpass"
        passwords.touch(mode=0o600)
        password = read_secret(folder.secrets, "superuser_password")
        passwords.write_text(f"*:*:*:{SUPERUSER}:{password}\n")


def _escaped(value: str) -> str:
    """A value inside the quotes of a file of settings."""
    return value.replace("\\", "\\\\").replace("'", "''")
