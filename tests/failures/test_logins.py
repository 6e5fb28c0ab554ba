"""Logins: what a flood of them costs everybody else (S12), and what their times tell (S14)."""

from __future__ import annotations

import asyncio
import math
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import orjson
import pytest

from services.deadline import Deadline
from services.exchange import ExchangeError
from services.keepalive import Pool
from tests.accounts import Person, new_address, new_email
from tests.faults.figures import record
from tests.laboratory import OwnDatabase, own_database
from tests.running_stack import RunningStack
from tests.served_business import served_business
from tests.shopping import Books, open_books

FLOOD_RATE: Final = 200.0  # logins a second
GET_RATE: Final = 50.0
MEASURED_S: Final = 20.0
PATIENCE_S: Final = 5.0
TRIES: Final = 2_000  # of each kind
DIFFERENCE: Final = 0.02  # of the medians, at most
SIGNIFICANT: Final = 0.01
ADDRESSES: Final = 125  # of each kind: none is tried as often as would delay it

COPY_ACCOUNT: Final = """
    with fresh as (
        insert into customers (kind) select 'customer' from unnest($1::text[]) returning customer_id
    ), numbered as (
        select customer_id, row_number() over () as number from fresh
    )
    insert into accounts (customer_id, email, email_key, password_hash)
    select n.customer_id, e.email, lower(e.email), a.password_hash
    from unnest($1::text[]) with ordinality as e (email, number) join numbered n using (number)
    cross join accounts a where a.email_key = lower($2)
"""


@pytest.mark.faults
async def test_a_flood_of_logins_leaves_pages_and_payments_alone(
    broken_stack: RunningStack, books: Books
) -> None:
    """From as many networks as there are logins, so that no rule but the queue holds them off."""
    goods = await books.goods()
    path = f"/products/{goods.slug}/stock".encode()
    url = broken_stack.environment["TERCET_BUSINESS_URL"]
    secret = (b"x-internal-secret", broken_stack.secret("internal_secret").encode())
    # As access has it: logins have connections of their own.
    pages, accounts = Pool.to(url, size=16), Pool.to(url, size=64)

    async def get() -> int:
        deadline = Deadline.after(PATIENCE_S)
        return (await pages.request(b"GET", path, [secret], deadline=deadline)).status

    async def log_in() -> int:
        body = orjson.dumps({"email": new_email(), "password": "not the password"})
        headers = [
            secret,
            (b"content-type", b"application/json"),
            (b"x-forwarded-for", new_address().encode()),
        ]
        deadline = Deadline.after(PATIENCE_S)
        try:
            sent = accounts.request(b"POST", b"/sessions", headers, body, deadline=deadline)
            return (await sent).status
        except ExchangeError:
            return 0  # no connection was free in time: refused before business

    before, _ = await offered(get, GET_RATE, MEASURED_S)
    flooding = asyncio.create_task(offered(log_in, FLOOD_RATE, MEASURED_S))
    during, statuses = await offered(get, GET_RATE, MEASURED_S)
    _, logins = await flooding
    await asyncio.gather(pages.aclose(), accounts.aclose())
    p99 = {"before": p99_ms(before), "during": p99_ms(during)}
    counts = {str(status): logins.count(status) for status in sorted(set(logins))}
    passed = p99["during"] <= 2 * p99["before"] and set(statuses) == {200}
    record(12, "a flood of 200 logins a second", passed, get_p99_ms=p99, logins=counts)
    assert set(logins) <= {0, 401, 503} and logins.count(503) > 0, counts
    assert passed, p99


async def offered(
    ask: Callable[[], Awaitable[int]], rate: float, seconds: float
) -> tuple[list[float], list[int]]:
    """Times in seconds and statuses of an open loop."""
    times, statuses = list[float](), list[int]()

    async def one() -> None:
        began_at = time.monotonic()
        statuses.append(await ask())
        times.append(time.monotonic() - began_at)

    began_at, tasks = time.monotonic(), set[asyncio.Task[None]]()
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, began_at + number / rate - time.monotonic()))
        tasks.add(asyncio.create_task(one()))
    await asyncio.gather(*tasks)
    return times, statuses


def p99_ms(times: Sequence[float]) -> float:
    return round(1000 * sorted(times)[math.ceil(0.99 * len(times)) - 1], 1)


@pytest.mark.faults
@pytest.mark.timeout(900)
async def test_the_time_of_a_login_does_not_tell_whether_its_address_is_known(
    broken_stack: RunningStack,
) -> None:
    async with own_database(broken_stack) as laboratory:
        await laboratory.upgrade()
        medians, p = await compared(laboratory)
    difference = abs(medians["known"] / medians["unknown"] - 1)
    passed = difference <= DIFFERENCE and p > SIGNIFICANT
    figures = {kind: round(1000 * median, 2) for kind, median in medians.items()}
    record(14, "logins with known and unknown addresses", passed, median_ms=figures, p=round(p, 4))
    assert passed, (figures, p)


async def compared(laboratory: OwnDatabase) -> tuple[dict[str, float], float]:
    """The medians in seconds, and how likely ranks like these are where both are the same."""
    async with (
        served_business(laboratory.settings()) as served,
        open_books(laboratory.superuser_dsn(), relayed=False) as books,
    ):
        known = Person(served.http, books)
        await known.sign_up()
        emails = {kind: [new_email() for _ in range(ADDRESSES)] for kind in ("known", "unknown")}
        await books.rows(COPY_ACCOUNT, emails["known"], known.email)
        took: dict[str, list[float]] = {kind: [] for kind in emails}
        tries = [(kind, n) for kind in emails for n in range(TRIES)]
        random.shuffle(tries)
        for kind, number in tries:
            body = {"email": emails[kind][number % ADDRESSES], "password": "not the password"}
            headers = {"x-forwarded-for": new_address()}
            began_at = time.perf_counter()
            answer = await served.http.post("/sessions", json=body, headers=headers)
            took[kind].append(time.perf_counter() - began_at)
            assert answer.status_code == 401, answer.text
    medians = {kind: statistics.median(times) for kind, times in took.items()}
    return medians, mann_whitney(took["known"], took["unknown"])


def mann_whitney(first: Sequence[float], second: Sequence[float]) -> float:
    """The probability of ranks as different as these, were both the same (two-sided, normal
    approximation; Mann and Whitney 1947). Times in nanoseconds have no ties to speak of."""
    ranked = sorted([(value, 0) for value in first] + [(value, 1) for value in second])
    ranks = sum(rank for rank, (_, kind) in enumerate(ranked, start=1) if kind == 0)
    n, m = len(first), len(second)
    u = ranks - n * (n + 1) / 2
    z = (u - n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12)
    return math.erfc(abs(z) / math.sqrt(2))


def test_a_difference_would_be_seen() -> None:
    """Of 2 % in the middle of what is spread by 10 %; and none is seen where there is none."""
    chance = random.Random(7)
    times = [chance.gauss(0.05, 0.005) for _ in range(3 * TRIES)]
    first, second, third = times[:TRIES], times[TRIES : 2 * TRIES], times[2 * TRIES :]
    assert mann_whitney(first, second) > SIGNIFICANT
    assert mann_whitney(first, [1.02 * value for value in third]) < SIGNIFICANT
