"""The works of `make bench-login`: logins on short connections, and what a flood of them costs."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from itertools import cycle, islice
from typing import Any, Final

from loadtests.comparison import ratio_row
from loadtests.data_bench import reported
from loadtests.payments_goods import payments
from loadtests.payments_works import Bench
from loadtests.posts import post_bytes, write_posts
from loadtests.programs import BrokenRunError, output_of
from loadtests.result import Aim, Row
from loadtests.usage import UsageMeter
from services.business.hasher import HASHER

ACCOUNTS: Final = 500  # who log in again and again, each at most some times a second
PASSWORD: Final = "correct horse battery staple"  # noqa: S105 - of nobody
HASHES: Final = 20  # of which one is timed
# What is offered, in requests a second: S12's flood, and enough beside it for a 99th percentile.
FLOOD_RATE: Final = 200.0
PAGE_RATE: Final = 100.0
PAYMENT_RATE: Final = 30.0
FLOOD_FIRST_S: Final = 1.0  # until the queues of the flood are as full as they get
FLOOD_NICE: Final = 19
FLOOD_AIM: Final = Aim("at most", 2.0)
# More than are sent in a second, as each is sent once.
LOGINS_A_SECOND: Final = 2_000
INSERT_ACCOUNTS: Final = """
    with fresh as materialized (
        select uuidv7() as customer_id, 'bench-' || number || '@example.com' as email
        from generate_series(1, $1::int) as number
    ), made as (
        insert into customers (customer_id, kind) select customer_id, 'customer' from fresh
    )
    insert into accounts (customer_id, email, email_key, password_hash)
    select customer_id, email, email, $2 from fresh
    on conflict (email_key) do nothing
"""


async def make_accounts(bench: Bench) -> None:
    """All with one password and, so that it is quick, one hash: each login verifies it anew."""
    async with bench.stack.owner() as owner:
        await owner.execute(INSERT_ACCOUNTS, ACCOUNTS, HASHER.hash(PASSWORD.encode()))


def login_requests(bench: Bench, count: int) -> list[bytes]:
    bodies = [
        json.dumps({"email": f"bench-{number}@example.com", "password": PASSWORD}).encode()
        for number in range(1, ACCOUNTS + 1)
    ]
    made = [post_bytes(bench.host, "/sessions", body, [], close=True) for body in bodies]
    return list(islice(cycle(made), count))


async def logging_in(bench: Bench) -> list[Row]:
    """As many logins as there can be, each on a connection of its own."""
    await make_accounts(bench)
    rates: list[float] = []
    alone: list[float] = []
    outcomes: list[dict[str, Any]] = []
    cpu: list[dict[str, float]] = []
    for number in range(bench.rounds + (1 if bench.warm_up_s else 0)):
        warm_up = number == 0 and bench.warm_up_s > 0
        alone_s = hash_s()
        usage = UsageMeter(bench.stack.folder.running_state()["parts"])
        outcome = await _closed_loop(bench, bench.warm_up_s if warm_up else bench.seconds)
        if warm_up:
            continue
        outcomes.append(outcome)
        rates.append(outcome["answers"] / outcome["seconds"])
        alone.append(1 / alone_s)
        each = max(1, outcome["answers"])
        cpu.append({part.name: (part.cpu_s or 0.0) * 1e6 / each for part in usage.read()})
    work = f"logins on short connections, c={bench.connections}"
    hashes_ms = [1000 / rate for rate in alone]
    names = sorted({name for one in cpu for name in one})
    return [
        ratio_row(work, "logins/s", rates, "hashes alone on one core", alone, aim=None),
        reported(f"{work}, p50", "ms", [one["p50_ms"] for one in outcomes]),
        reported(f"{work}, p99", "ms", [one["p99_ms"] for one in outcomes]),
        *_refusals(work, [one["errors"] for one in outcomes]),
        reported("one hash alone on its core", "ms", hashes_ms),
        *(
            reported(f"{work}, CPU of {name}", "us each", [one.get(name, 0.0) for one in cpu])
            for name in names
        ),
    ]


async def flooded(bench: Bench) -> list[Row]:
    """Pages and payments beside a flood of logins that business can not take, and without it."""
    await make_accounts(bench)
    kinds: dict[str, tuple[float, Callable[[], Awaitable[list[bytes]]]]] = {
        "pages held by access": (PAGE_RATE, lambda: _pages(bench, "/products/{slug}")),
        "reads of stock by business": (PAGE_RATE, lambda: _pages(bench, "/products/{slug}/stock")),
        "payments": (PAYMENT_RATE, lambda: _payments(bench)),
    }
    rows: list[Row] = []
    floods: list[dict[str, Any]] = []
    for name, (rate, requests) in kinds.items():
        alone: list[dict[str, Any]] = []
        beside: list[dict[str, Any]] = []
        if bench.warm_up_s:
            await _offer(bench, await requests(), rate, bench.warm_up_s)
        for number in range(bench.rounds):
            turns = (True, False) if number % 2 else (False, True)
            for flood in turns:
                ready = await requests()
                if flood:
                    floods.append(await _beside_flood(bench, ready, rate, beside))
                else:
                    alone.append(await _offer(bench, ready, rate, bench.seconds))
        p99 = [[one["p99_ms"] for one in side] for side in (beside, alone)]
        work = f"{name}, p99 beside {FLOOD_RATE:g} logins/s"
        rows.append(ratio_row(work, "ms", p99[0], "without logins", p99[1], aim=FLOOD_AIM))
        rows += _failures(name, alone + beside)
    work = f"a flood of {FLOOD_RATE:g} logins/s"
    let_in = [one["good"] / one["seconds"] for one in floods]
    answers = [one["answers"] for one in floods]
    costs = [
        reported(f"{work}, and others beside it, CPU of {name}", "% of a core", each)
        for name in ("access", "business", "primary")
        if (each := [one["cpu"][name] for one in floods if name in one["cpu"]])
    ]
    let_in_row = reported(f"{work}, let in", "logins/s", let_in)
    return [*rows, let_in_row, *_refusals(work, answers), *costs]


WORKS: Final[dict[str, Callable[[Bench], Awaitable[list[Row]]]]] = {
    "logins": logging_in,
    "flood": flooded,
}


def hash_s() -> float:
    """Processor time of one hash with the parameters of business, on this process' core."""
    began_s = time.process_time()
    for _ in range(HASHES):
        HASHER.hash(PASSWORD.encode())
    return (time.process_time() - began_s) / HASHES


async def _closed_loop(bench: Bench, seconds: float) -> dict[str, Any]:
    file = bench.folder / "logins"
    count = round(seconds * LOGINS_A_SECOND) + bench.connections
    write_posts(file, login_requests(bench, count))
    command = [sys.executable, "-m", "loadtests.posts", "--url", bench.access.url()]
    command += [f"--requests={file}", f"--connections={bench.connections}"]
    command += [f"--seconds={seconds}", "--close"]
    outcome: dict[str, Any] = json.loads(await output_of(command, bench.cores.generator))
    if not outcome["answers"]:
        raise BrokenRunError(f"nobody could log in: {outcome['errors']}")
    return outcome


async def _offer(
    bench: Bench, requests: Sequence[bytes], rate: float, seconds: float, *, close: bool = False
) -> dict[str, Any]:
    file = bench.folder / f"offered-{'short' if close else 'kept'}"
    write_posts(file, requests)
    command = [sys.executable, "-m", "loadtests.offered", "--url", bench.access.url()]
    command += [f"--requests={file}", f"--rate={rate}", f"--seconds={seconds}"]
    command += ["--close"] if close else []
    # Both sides have one core: what is measured is not to be the wait for who sends the flood.
    command = ["nice", "-n", str(FLOOD_NICE), *command] if close else command
    outcome: dict[str, Any] = json.loads(await output_of(command, bench.cores.generator))
    if not outcome["good"]:
        raise BrokenRunError(f"no good answer: {outcome['answers']}")
    return outcome


async def _beside_flood(
    bench: Bench, requests: Sequence[bytes], rate: float, into: list[dict[str, Any]]
) -> dict[str, Any]:
    """Measure while logins come; returns what became of those."""
    logins, lasts_s = login_requests(bench, ACCOUNTS), bench.seconds + 2 * FLOOD_FIRST_S
    flood = asyncio.create_task(_offer(bench, logins, FLOOD_RATE, lasts_s, close=True))
    try:
        await asyncio.sleep(FLOOD_FIRST_S)
        usage = UsageMeter(bench.stack.folder.running_state()["parts"])
        into.append(await _offer(bench, requests, rate, bench.seconds))
        parts = {one.name: 100 * (one.cpu_s or 0.0) / into[-1]["seconds"] for one in usage.read()}
        return {**await flood, "cpu": parts}
    finally:
        flood.cancel()


async def _pages(bench: Bench, target: str) -> list[bytes]:
    async with bench.stack.owner() as owner:
        slugs = await owner.fetch(
            "select slug from products where published order by product_id limit 10"
        )
    return [
        f"GET {target.format(slug=row['slug'])} HTTP/1.1\r\nHost: {bench.host}\r\n\r\n".encode()
        for row in slugs
    ]


async def _payments(bench: Bench) -> list[bytes]:
    """One for each time there is one: the longest run, and some."""
    count = round(PAYMENT_RATE * max(bench.seconds, bench.warm_up_s)) + 10
    return await payments(bench.stack, bench.goods, bench.host, count)


def _refusals(work: str, answers: Sequence[dict[str, int]]) -> list[Row]:
    """What was no login, by kind and in all rounds together."""
    total: Counter[str] = Counter()
    for one in answers:
        total.update({kind: count for kind, count in one.items() if kind != "201"})
    kinds = [(f"{work}, refused with {kind}", float(count)) for kind, count in total.items()]
    return [reported(kind, "in all", [count]) for kind, count in sorted(kinds)]


def _failures(work: str, outcomes: Sequence[dict[str, Any]]) -> list[Row]:
    """Requests of others that the flood, or anything, has failed."""
    failed = sum(one["offered"] - one["good"] for one in outcomes)
    return [reported(f"{work}, failed", "in all", [float(failed)])]
