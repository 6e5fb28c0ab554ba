"""The project's own processes as parts: migrations, catalog, provider and the tiers."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import asyncpg

from infra.local.addresses import EVERY_ADDRESS, LOOPBACK, get
from infra.local.folder import DataFolder
from infra.local.parts import NotReadyError, Part
from infra.local.secret_files import read_secret

MIGRATIONS: Final = Path(__file__).resolve().parents[2] / "migrations" / "versions"
# What serves requests answers those in flight: 3 s at most, a tenth as long when nobody is there.
STOP_GRACE_S: Final = 3.0
CATALOG_SEED: Final = 1  # the same shop on every machine


@dataclass
class Tier(Part):
    """A process with a port, or a worker with a file that says it is ready."""

    arguments: tuple[str, ...] = field(kw_only=True)
    variables: Callable[[], Mapping[str, str]] = field(kw_only=True)
    host: str = field(default="", kw_only=True)
    port: int = field(default=0, kw_only=True)
    internal_port: int = field(default=0, kw_only=True)
    ready_path: str = field(default="/ready", kw_only=True)
    ready_file: Path | None = field(default=None, kw_only=True)
    tls: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if self.port:
            self.address = f"{self.host}:{self.port}"
            self.stop_grace_s = STOP_GRACE_S
        if self.internal_port:
            self.internal_address = f"{LOOPBACK}:{self.internal_port}"

    def listens_on(self) -> dict[str, str]:
        """The variables that tell the process its own addresses."""
        prefix = f"TERCET_{self.name.upper()}"
        found = {f"{prefix}_HOST": self.host, f"{prefix}_PORT": str(self.port)}
        return found | self._tells_on(prefix)

    def _tells_on(self, prefix: str) -> dict[str, str]:
        if not self.internal_port:
            return {}
        return {
            f"{prefix}_INTERNAL_HOST": LOOPBACK,
            f"{prefix}_INTERNAL_PORT": str(self.internal_port),
        }

    async def prepare(self) -> None:
        if self.ready_file:
            self.ready_file.unlink(missing_ok=True)

    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", "infra.process", *self.arguments]

    def environment(self) -> Mapping[str, str]:
        if not self.ready_file:
            return self.variables()
        own = {"TERCET_READY_FILE": str(self.ready_file), **self._tells_on("TERCET_WORKER")}
        return {**self.variables(), **own}

    async def check(self) -> str:
        if self.ready_file:
            if not self.ready_file.exists():
                raise NotReadyError("not ready yet")
            return self._metrics()
        host = EVERY_ADDRESS.get(self.host, self.host)
        # Once it was ready, only whether it lives counts: /ready is for balancers.
        path = "/live" if self.has_been_ready else self.ready_path
        try:
            status, _ = await get(host, self.port, path, tls=self.tls)
        except (ValueError, IndexError):
            raise NotReadyError(f"another program answers on port {self.port}") from None
        if status != 200:
            raise NotReadyError(f"{path} answers {status}")
        return self._metrics()

    def _metrics(self) -> str:
        return f"metrics at {self.internal_address}" if self.internal_port else ""


async def _ask_owner(
    variables: Mapping[str, str], secrets: Path, table: str, query: str, *args: object
) -> Any:
    """The first value of a query as tercet_owner; None where its table is not there."""
    password = variables.get("TERCET_OWNER_PASSWORD") or read_secret(secrets, "owner_password")
    try:
        connection = await asyncpg.connect(
            variables["TERCET_OWNER_DSN"], password=password, timeout=2.0, statement_cache_size=0
        )
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise NotReadyError(str(error)) from None
    try:
        if await connection.fetchval("select to_regclass($1)", table, timeout=2.0) is None:
            return None
        return await connection.fetchval(query, *args, timeout=2.0)
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise NotReadyError(str(error)) from None
    finally:
        connection.terminate()


def newest_revision(folder: Path = MIGRATIONS) -> str | None:
    """The revision that no migration follows, without importing Alembic for it (0.5 s)."""
    pattern = re.compile(r"^(down_)?revision\b[^=\n]*=\s*[\"']([^\"']+)[\"']", re.MULTILINE)
    own: set[str] = set()
    followed: set[str] = set()
    for path in folder.glob("*.py"):
        for down, revision in pattern.findall(path.read_text()):
            (followed if down else own).add(revision)
    newest = own - followed
    return newest.pop() if len(newest) == 1 else None


@dataclass
class Mailbox(Tier):
    """The mailbox: its page on its port, and SMTP on the other one."""

    def listens_on(self) -> dict[str, str]:
        """Both of its addresses."""
        return {
            "TERCET_MAILBOX_HOST": self.host,
            "TERCET_MAILBOX_PORT": str(self.port),
            "TERCET_MAILBOX_SMTP_HOST": LOOPBACK,
            "TERCET_MAILBOX_SMTP_PORT": str(self.internal_port),
        }

    def _metrics(self) -> str:
        return f"SMTP at {self.internal_address}"


@dataclass
class Migrate(Tier):
    """The task that brings the schema up to date."""

    folder: DataFolder = field(kw_only=True)

    async def reason_to_skip(self) -> str | None:
        query = "select version_num from alembic_version"
        current = await _ask_owner(self.variables(), self.folder.secrets, "alembic_version", query)
        if not current or current != newest_revision() or not await self._knows_operator():
            return None
        return f"at {current}"

    async def _knows_operator(self) -> bool:
        """Whether the operator's token of now is registered: it may have been made anew."""
        given = self.variables().get("TERCET_OPERATOR_TOKEN")
        token = given or read_secret(self.folder.secrets, "operator_token")
        query = "select exists (select from sessions where token_sha256 = $1 and ended_at is null)"
        digest = hashlib.sha256(token.encode()).digest()
        known = await _ask_owner(self.variables(), self.folder.secrets, "sessions", query, digest)
        return bool(known)


@dataclass
class Catalog(Tier):
    """The task that loads the sample catalog into an empty shop."""

    folder: DataFolder = field(kw_only=True)
    products: int = field(kw_only=True)

    def __post_init__(self) -> None:
        self.arguments = (
            "catalog", "generate", "--products", str(self.products), "--seed", str(CATALOG_SEED)
        )  # fmt: skip

    @property
    def _half_done(self) -> Path:
        return self.folder.run / "catalog-half-done"

    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", "infra.cli", *self.arguments]

    async def reason_to_skip(self) -> str | None:
        if not self.products:
            return "none asked for"
        query = "select exists (select from products)"
        some = await _ask_owner(self.variables(), self.folder.secrets, "products", query)
        return "there are products" if some and not self._half_done.exists() else None

    async def prepare(self) -> None:
        self._half_done.touch()

    async def completed(self) -> None:
        self._half_done.unlink(missing_ok=True)
