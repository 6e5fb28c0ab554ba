"""The shop at one size of its catalog, and what a request of each path costs its processes."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Final, NamedTuple

import psutil
from redis.asyncio import Redis

from infra.local import secret_files
from infra.local.addresses import LOOPBACK, free_port
from loadtests.access_process import running_access
from loadtests.data_goods import drop_search, fill
from loadtests.data_growth import settle
from loadtests.data_stack import DataStack
from loadtests.heartbeat import beating
from loadtests.pinning import Cores
from loadtests.programs import BrokenRunError, Launch, Program, running
from loadtests.shop import Zipf
from loadtests.usage import cpu_s
from services.deadline import Deadline
from services.exchange import Response
from services.keepalive import Headers, Pool

CALLERS: Final = 8  # fewer than access lets pass at once: a refusal is no cost of a page
ASK_S: Final = 20.0
# Of the pages that are to come from memory. A heartbeat that is late on a busy machine has all of
# them asked for again, which is one in two hundred of the usual number of requests each time.
LEAST_HITS: Final = 0.97
# What a limit that adapts refuses of a load that comes all at once is asked for again, this part of
# it at most: a refusal takes less than a tenth of a page.
MOST_REFUSED: Final = 0.01
REFUSED_S: Final = 0.05
POPULAR: Final = 100  # pages that are held and asked for again and again
STORED: Final = 500  # pages that Valkey has: more than are ever under way together
# There is no standby here, and what protects a primary that has lost its standbys would refuse most
# of the reads; on a busy machine a wait is no refusal either.
PATIENT: Final = {
    "TERCET_PRIMARY_READ_LIMIT": "64",
    "TERCET_POOL_WAIT_MS": "5000",
    "TERCET_CACHE_TIMEOUT_MS": "2000",
}
NO_MEMORY: Final = {"TERCET_CACHE_MEMORY_BYTES": "0"}
SECRETS: Final = ("internal_secret", "cookie_secret", "provider_secret", "webhook_secret")
VALKEY_DATABASES: Final = 16  # the default of its configuration


class Cost(NamedTuple):
    """CPU microseconds of an answer; hits: the share of answers that access held."""

    cpu_us: float
    hits: float


@dataclass(frozen=True)
class Sized:
    """Access and business on a database with so many products, ready to be asked.

    access holds pages; uncached is a business that keeps nothing in memory.
    """

    products: int
    filled_s: float
    access: Program
    business: Program
    uncached: Program
    database_pid: int
    headers: Headers
    valkey: Redis

    async def held(self, requests: int) -> Cost:
        """Popular pages from the memory of access."""
        targets = list(islice(cycle(_targets(range(1, POPULAR + 1))), requests))
        await ask_all(self.access, targets[:POPULAR])
        return await self._cost(self.access, targets, [self.access.pid], least_hits=LEAST_HITS)

    async def from_valkey(self, requests: int) -> Cost:
        """Pages that business has to get from Valkey."""
        stored = list(_targets(range(1, min(STORED, self.products) + 1)))
        await ask_all(self.uncached, stored, self.headers)
        targets = list(islice(cycle(stored), requests))
        before = await self._fills()
        cost = await self._cost(self.uncached, targets, [self.uncached.pid])
        filled = await self._fills() - before
        if filled > (1 - LEAST_HITS) * requests:
            raise BrokenRunError(f"{self.products}: {filled} of {requests} were not in Valkey")
        return cost

    async def cold(self, requests: int, seed: int) -> Cost:
        """Different pages, any as likely as any other, that only the database has.

        With what PostgreSQL's processes for it take.
        """
        await self.valkey.flushdb()
        numbers = random.Random(seed).sample(range(1, self.products + 1), requests)
        pids = [self.uncached.pid, self.database_pid]
        return await self._cost(self.uncached, list(_targets(numbers)), pids)

    async def mix(self, requests: int, seed: int) -> Cost:
        """Popular pages most often, through access and business: what is held is not asked for."""
        zipf = Zipf(self.products, seed=seed)
        targets = list(_targets(zipf.pick() + 1 for _ in range(requests)))
        pids = [self.access.pid, self.business.pid, self.database_pid]
        return await self._cost(self.access, targets, pids)

    async def _fills(self) -> int:
        """Pages that Valkey did not have: their leases, for which alone it is asked to EVAL."""
        return int((await self.valkey.info("commandstats"))["cmdstat_eval"]["calls"])

    async def _cost(
        self, server: Program, targets: Sequence[str], pids: Sequence[int], least_hits: float = 0.0
    ) -> Cost:
        headers = [] if server is self.access else self.headers
        before_s = sum(cpu_s(pid) or 0.0 for pid in pids)
        hits = await ask_all(server, targets, headers)
        took_s = sum(cpu_s(pid) or 0.0 for pid in pids) - before_s
        share = hits / len(targets)
        if share < least_hits:
            raise BrokenRunError(f"{self.products}: only {share:.2%} of the pages were held")
        return Cost(took_s * 1e6 / len(targets), share)


async def ask_all(server: Program, targets: Sequence[str], headers: Headers | None = None) -> int:
    """Ask for each of them once, some at a time; returns how many were held by access."""
    pool, waiting = Pool(LOOPBACK, server.port, size=CALLERS), iter(targets)
    hits = refused = 0
    deadline = Deadline(time.monotonic() + ASK_S + len(targets) / 100)

    async def ask(target: str) -> Response:
        return await pool.request(b"GET", target.encode(), headers or [], deadline=deadline)

    async def caller() -> None:
        nonlocal hits, refused
        for target in waiting:
            answer = await ask(target)
            while answer.status == 503 and refused < MOST_REFUSED * len(targets):
                refused += 1
                await asyncio.sleep(REFUSED_S)
                answer = await ask(target)
            if answer.status != 200:
                raise BrokenRunError(f"{target}: {answer.status} {answer.body[:200]!r}")
            hits += b"hit" in (answer.header(b"cache-status") or b"")

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(CALLERS):
                group.create_task(caller())
    except* BrokenRunError as errors:
        raise errors.exceptions[0] from None
    finally:
        await pool.aclose()
    return hits


@asynccontextmanager
async def sized(
    stack: DataStack, products: int, number: int, cores: Cores, folder: Path
) -> AsyncIterator[Sized]:
    """Fill a database of its own, and start access and business on it. number: of this size."""
    began_at = time.monotonic()
    database = await stack.copy(f"bench_{products}")
    await drop_search(database)
    await fill(database, products)
    await settle(database)
    filled_s = time.monotonic() - began_at
    print(f"{products:>9,} products: filled in {filled_s:.1f} s", flush=True)
    folder = folder / str(products)
    folder.mkdir()
    environment = _environment(database, number)
    secret = environment["TERCET_INTERNAL_SECRET"]
    uncached = _business({**environment, **NO_MEMORY})
    behind = _business(environment)
    holding = {"TERCET_INTERNAL_SECRET": secret}
    async with (
        running(uncached, cores.server, folder / "uncached.log") as reading,
        running_access(behind, cores, folder, holding, behind_core=cores.server) as access,
    ):
        valkey = Redis.from_url(
            environment["TERCET_VALKEY_URL"], password=environment["TERCET_VALKEY_PASSWORD"]
        )
        try:
            yield Sized(
                products,
                filled_s,
                access,
                Program(_pid_of(behind.port), behind.port),
                reading,
                database_pid(stack),
                [(b"x-internal-secret", secret.encode()), (b"x-deadline-ms", b"5000")],
                valkey,
            )
        finally:
            await valkey.aclose()


@asynccontextmanager
async def heard(stack: DataStack) -> AsyncIterator[None]:
    """A relay for all shops on these servers: without one nothing that is held is believed long."""
    password = secret_files.read_secret(stack.folder.secrets, "valkey_password")
    valkey = Redis.from_url(stack.environment["TERCET_VALKEY_URL"], password=password)
    try:
        async with beating(valkey):
            yield
    finally:
        await valkey.aclose()


def database_pid(stack: DataStack) -> int:
    parts = stack.folder.read_state()["parts"]
    return int(next(part["pid"] for part in parts if part["name"] == "primary"))


def _pid_of(port: int) -> int:
    """The process that listens there."""
    for process in psutil.process_iter():
        try:
            for connection in process.net_connections("tcp"):
                if connection.status == "LISTEN" and connection.laddr.port == port:
                    return process.pid
        except psutil.Error:
            continue
    raise BrokenRunError(f"nobody listens on {port}")


def _environment(database: DataStack, number: int) -> Mapping[str, str]:
    """What business has to know: its database, as the superuser in the application's role, and a
    database of Valkey of its own, since products of all sizes have the same names."""
    secrets = database.folder.secrets
    place, _, _ = database.environment["TERCET_VALKEY_URL"].rpartition("/")
    own = {f"TERCET_{name.upper()}": secret_files.read_secret(secrets, name) for name in SECRETS}
    return {
        **database.environment,
        **own,
        "TERCET_PRIMARY_DSN": f"{database.plain_dsn('postgres')}?role=tercet_app",
        "TERCET_STANDBY_DSNS": "",
        "TERCET_APP_PASSWORD": secret_files.read_secret(secrets, "superuser_password"),
        "TERCET_READ_PASSWORD": secret_files.read_secret(secrets, "read_password"),
        "TERCET_VALKEY_URL": f"{place}/{number % VALKEY_DATABASES}",
        "TERCET_VALKEY_PASSWORD": secret_files.read_secret(secrets, "valkey_password"),
        "TERCET_PROVIDER_URL": f"http://{LOOPBACK}:9",  # nobody pays here
        "TERCET_LOG_LEVEL": "WARNING",
        **PATIENT,
    }


def _business(environment: Mapping[str, str]) -> Launch:
    port = free_port()
    own = {"TERCET_BUSINESS_HOST": LOOPBACK, "TERCET_BUSINESS_PORT": str(port)}
    command = [sys.executable, "-m", "infra.process", "business"]
    return Launch(command, port, {**environment, **own}, ready_path="/ready")


def _targets(numbers: Sequence[int] | Iterator[int]) -> Iterator[str]:
    return (f"/products/bench-{number}" for number in numbers)
