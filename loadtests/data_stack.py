"""The servers for a benchmark of the data tier, started as `tercet up` does, on one core."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import asyncpg
from pydantic import SecretStr

from infra.local import secret_files
from infra.local.folder import DataFolder
from infra.local.processes import spawn
from infra.local.servers import postgres_bin
from loadtests.pinning import on_core
from loadtests.programs import BrokenRunError, clean_environment, output_of
from loadtests.result import PROJECT
from services.settings import DatabaseSettings, load

START_S: Final = 120.0  # two databases are made, all on one core
STOP_S: Final = 20.0
POLL_S: Final = 0.05
PASSWORDS: Final = {"postgres": "superuser_password", "tercet_app": "app_password"}


@dataclass(frozen=True)
class DataStack:
    """A primary with its standby and Valkey, migrated and empty; database: which one is meant."""

    folder: DataFolder
    database: str = "tercet"

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which a process reaches these servers."""
        return {str(k): str(v) for k, v in self.folder.read_state()["environment"].items()}

    def dsn(self, role: str, server: str = "primary") -> str:
        """How postgres (the superuser) or tercet_app connects, password included."""
        parts = self.folder.read_state()["parts"]
        address = next(part["address"] for part in parts if part["name"] == server)
        password = secret_files.read_secret(self.folder.secrets, PASSWORDS[role])
        return f"postgresql://{role}:{password}@{address}/{self.database}"

    def plain_dsn(self, role: str) -> str:
        """The same without the password, as settings want it."""
        user, _, place = self.dsn(role).rpartition("@")
        return f"{user.rpartition(':')[0]}@{place}"

    def settings(self, **changes: Any) -> DatabaseSettings:
        """Those of the data tier. Into a database of a benchmark only the superuser is let, who
        takes the role of the application."""
        with patch.dict(os.environ, self.environment):
            settings = load(DatabaseSettings)
        if self.database != "tercet":
            password = secret_files.read_secret(self.folder.secrets, "superuser_password")
            changes = {
                "primary_dsn": f"{self.dsn('postgres')}?role=tercet_app",
                "standby_dsns": [],
                "app_password": SecretStr(password),
                **changes,
            }
        return settings.model_copy(update=changes)

    @asynccontextmanager
    async def owner(self) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        """A connection that may make tables."""
        connection = await asyncpg.connect(f"{self.dsn('postgres')}?role=tercet_owner")
        try:
            yield connection
        finally:
            await connection.close()

    async def copy(self, name: str) -> DataStack:
        """Another database, like this one; nobody may be connected to it."""
        connection = await asyncpg.connect(DataStack(self.folder, "postgres").dsn("postgres"))
        try:
            await connection.execute(f"create database {name} template {self.database}")
        finally:
            await connection.close()
        return DataStack(self.folder, name)

    async def pgbench(
        self, script: str, *, clients: int, seconds: float, core: int | None
    ) -> float:
        """Transactions a second of that script, its clients in a program of its own."""
        file = self.folder.root / "script.sql"
        file.write_text(script)
        command = [
            *(str(postgres_bin() / "pgbench"), "--no-vacuum", "--protocol=prepared"),
            *(f"--client={clients}", "--jobs=1", f"--time={max(1, round(seconds))}"),
            *(f"--file={file}", self.dsn("tercet_app")),
        ]
        return read_pgbench(await output_of(command, core))


def read_pgbench(said: str) -> float:
    """The rate that pgbench prints; BrokenRunError where there is none or transactions failed."""
    tps = said.partition("tps = ")[2].split()
    failed = said.partition("failed transactions: ")[2].split()
    if not tps or (failed and failed[0] != "0"):
        raise BrokenRunError(f"pgbench: {said[-500:]}")
    return float(tps[0])


@asynccontextmanager
async def running_data_stack(folder: Path, core: int | None) -> AsyncIterator[DataStack]:
    """The servers, ready, until the end of the block."""
    data, log = DataFolder.at(folder / "data"), folder / "up.log"
    command = [sys.executable, "-m", "infra.cli", "up", "--servers-only", "--port", "0"]
    with on_core(core):
        process = spawn(
            [*command, "--data-dir", str(data.root)],
            environment=clean_environment(),
            log_file=log,
            cwd=PROJECT,
            death_signal=signal.SIGTERM,
        )
    try:
        deadline = asyncio.get_running_loop().time() + START_S
        while not (state := data.read_state()) or state["phase"] != "ready":
            if process.poll() is not None or asyncio.get_running_loop().time() > deadline:
                said = log.read_text(errors="replace")[-2000:]
                raise BrokenRunError(f"the servers did not start: {said}")
            await asyncio.sleep(POLL_S)
        yield DataStack(data)
    finally:
        process.terminate()
        for _ in range(round(STOP_S / POLL_S)):
            if process.poll() is not None:
                break
            await asyncio.sleep(POLL_S)
        else:
            process.kill()
        process.wait()
