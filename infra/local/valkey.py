"""Valkey in the local stack: the cache, and the log of events."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from infra.local.addresses import LOOPBACK, free_port
from infra.local.folder import DataFolder
from infra.local.parts import NotReadyError, Part
from infra.local.secret_files import read_secret
from infra.local.servers import INFRA, Servers

PING_TIMEOUT_S: Final = 1.0
FORGET_AFTER_FAILED_STARTS: Final = 2


@dataclass
class Valkey(Part):
    """One of them, by its name: options, password and folder are called after it.

    disposable: what it keeps may be lost, so damaged files are thrown away.
    """

    folder: DataFolder = field(kw_only=True)
    servers: Servers = field(kw_only=True)
    port: int = field(kw_only=True)
    options: tuple[str, ...] = field(default=(), kw_only=True)  # over those of its file
    disposable: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        self.address = f"{LOOPBACK}:{self.port}"

    @property
    def data(self) -> Path:
        return self.folder.root / self.name

    @property
    def _password(self) -> str:
        return read_secret(self.folder.secrets, f"{self.name}_password")

    @property
    def _file(self) -> Path:
        return self.folder.run / f"{self.name}.conf"

    async def prepare(self) -> None:
        # A file, because a password on a command line can be seen by every user.
        fresh = self._file.with_suffix(".new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(f'include "{INFRA / "valkey" / self._file.name}"\n')
            file.write(f"bind {LOOPBACK}\nport {self.port}\n")
            folder = str(self.data).replace("\\", "\\\\").replace('"', '\\"')
            file.write(f'dir "{folder}"\nrequirepass "{self._password}"\n')
            file.writelines(f"{option}\n" for option in self.options)
        fresh.replace(self._file)

    def command(self) -> Sequence[str]:
        return [str(self.servers.valkey_server), str(self._file)]

    def environment(self) -> Mapping[str, str]:
        return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C"}

    async def check(self) -> str:
        async with asyncio.timeout(PING_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(LOOPBACK, self.port)
            try:
                writer.write(f"AUTH {self._password}\r\nPING\r\n".encode())
                answers = [await reader.readline() for _ in range(2)]
            finally:
                writer.close()
        if answers != [b"+OK\r\n", b"+PONG\r\n"]:
            raise NotReadyError(answers[-1].decode(errors="replace").strip())
        return ""

    def died_before_ready(self, times: int) -> None:
        if not self.has_been_ready:  # another program may have taken the port that was free
            self.port = free_port()
            self.address = f"{LOOPBACK}:{self.port}"
        if self.disposable and times >= FORGET_AFTER_FAILED_STARTS:
            shutil.rmtree(self.data / "appendonlydir", ignore_errors=True)
