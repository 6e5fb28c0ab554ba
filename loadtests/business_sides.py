"""business and its usual twin before the same servers: a whole stack, on the generator's core."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from redis.asyncio import Redis

from infra.local.addresses import LOOPBACK, free_port
from infra.local.folder import DataFolder
from infra.local.secret_files import read_secret
from loadtests.pinning import Cores
from loadtests.programs import BrokenRunError, Launch, Program, ask, running
from loadtests.shop import page_target

START_S: Final = 180.0  # a database is made and a catalog loaded, all on one core
STOP_S: Final = 20.0
POLL_S: Final = 0.1
LISTED: Final = 100  # products a page of the list, the most there can be


@dataclass(frozen=True)
class Shop:
    """A running stack: where its servers are, and what can be asked for."""

    data_dir: Path
    environment: Mapping[str, str]
    secret: str
    database_url: str  # with the password, as the twin wants it
    valkey_url: str
    pages: list[str]
    lists: list[str]

    @property
    def headers(self) -> list[tuple[str, str]]:
        """What access sends with each request."""
        return [("x-internal-secret", self.secret), ("x-deadline-ms", "5000")]


@asynccontextmanager
async def running_shop(cores: Cores, folder: Path, products: int) -> AsyncIterator[Shop]:
    """A whole stack of its own."""
    port, data = free_port(), folder / "data"
    command = [sys.executable, "-m", "infra.cli", "up", "--port", str(port)]
    command += ["--data-dir", str(data), "--products", str(products)]
    launch = Launch(
        command, port, ready_path="/ready", ready_within_s=START_S, stop_within_s=STOP_S
    )
    async with running(launch, cores.generator, folder / "up.log"):
        await _whole(DataFolder.at(data))
        yield await shop_at(data, products)


async def shop_at(data_dir: Path, products: int) -> Shop:
    """The shop that runs on a data folder, with so many products at least."""
    folder = DataFolder.at(data_dir)
    state = folder.running_state()
    environment = state["environment"]
    access = Program(state["guard"]["pid"], urlsplit(state["url"]).port or 80)
    return Shop(
        data_dir,
        environment,
        read_secret(folder.secrets, "internal_secret"),
        _with(environment["TERCET_PRIMARY_DSN"], read_secret(folder.secrets, "app_password")),
        _with(environment["TERCET_VALKEY_URL"], read_secret(folder.secrets, "valkey_password")),
        [page_target(slug) for slug in await _slugs(access, products)],
        await _lists(access),
    )


def business(shop: Shop, settings: Mapping[str, str]) -> Launch:
    """`tercet business` as it is shipped, on a port of its own."""
    port = free_port()
    environment = {
        **shop.environment,
        "TERCET_BUSINESS_HOST": LOOPBACK,
        "TERCET_BUSINESS_PORT": str(port),
        "TERCET_LOG_LEVEL": "WARNING",
        **settings,
    }
    command = [sys.executable, "-m", "infra.process", "business"]
    return Launch(command, port, environment, ready_path="/ready")


def usual(shop: Shop) -> Launch:
    """The twin, by the command of uvicorn's guide, without its access log: business has none."""
    port = free_port()
    environment = {"DATABASE_URL": shop.database_url, "REDIS_URL": shop.valkey_url}
    command = [sys.executable, "-m", "uvicorn", "loadtests.peers.usual.app:app"]
    command += ["--host", LOOPBACK, "--port", str(port), "--no-access-log"]
    return Launch([*command, "--log-level", "warning"], port, environment, ready_path="/ready")


async def require_same(shop: Shop, ours: Program, theirs: Program, targets: Sequence[str]) -> None:
    """BrokenRunError unless both answer the same documents; from now on both hold them."""
    for target in targets:
        first = await _document(ours, target, shop.headers)
        second = await _document(theirs, target)
        for document in (first, second):
            document.pop("next_cursor", None)  # the twin has no further pages
        if first != second:
            raise BrokenRunError(f"{target}: business and its twin do not answer the same")


@dataclass(frozen=True, slots=True)
class Lookups:
    """What Valkey was asked for, since it started: keys that were there, and that were not."""

    hits: int
    misses: int

    def since(self, before: Lookups) -> Lookups:
        return Lookups(self.hits - before.hits, self.misses - before.misses)


class Valkey:
    """The stack's Valkey, as the benchmark empties and watches it."""

    def __init__(self, url: str) -> None:
        self._redis = Redis.from_url(url)

    async def forget(self) -> None:
        await self._redis.flushdb()

    async def lookups(self) -> Lookups:
        stats = await self._redis.info("stats")
        return Lookups(int(stats["keyspace_hits"]), int(stats["keyspace_misses"]))

    async def close(self) -> None:
        await self._redis.aclose()


async def _whole(folder: DataFolder) -> None:
    """Return once the catalog is there too: the shop answers before."""
    async with asyncio.timeout(START_S):
        while folder.read_state()["phase"] != "ready":  # noqa: ASYNC110  # another process says it
            await asyncio.sleep(POLL_S)


async def _slugs(stack: Program, wanted: int) -> list[str]:
    """All of the catalog, once the standby has it."""
    async with asyncio.timeout(START_S):
        while len(slugs := await _listed(stack, wanted)) < wanted:  # noqa: ASYNC110  # as above
            await asyncio.sleep(POLL_S)
    return slugs


async def _listed(stack: Program, wanted: int) -> list[str]:
    slugs: list[str] = []
    cursor: str | None = ""
    while cursor is not None and len(slugs) < wanted:
        query = f"&cursor={cursor}" if cursor else ""
        page = await _document(stack, f"/products?limit={LISTED}{query}")
        slugs += [item["slug"] for item in page["items"]]
        cursor = page["next_cursor"]
    return slugs


async def _lists(stack: Program) -> list[str]:
    categories = await _document(stack, "/categories")
    return ["/products", *(f"/products?category={item['slug']}" for item in categories["items"])]


async def _document(
    server: Program, target: str, headers: Sequence[tuple[str, str]] = ()
) -> dict[str, Any]:
    async with asyncio.timeout(START_S):
        status, _, body = await ask(server, target, headers)
    if status != 200:
        raise BrokenRunError(f"{target} answers {status}: {body[:200]!r}")
    document: dict[str, Any] = json.loads(body)
    return document


def _with(url: str, password: str) -> str:
    parts = urlsplit(url)
    user, _, place = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user}:{password}@{place}"))
