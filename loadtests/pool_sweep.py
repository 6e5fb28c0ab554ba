"""`make pool-sweep`: throughput and p99 against the size of access' pools of connections.

The article says 2 to 4 times the cores. Pages go to the real business of a stack; payments to a
scripted one that waits as long as a provider takes, and does nothing else. Little's law says what
each would need: connections in use = requests a second x seconds of each. Exit code 0: measured.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import uvloop

from infra.local.addresses import LOOPBACK, free_port
from infra.local.folder import DataFolder
from loadtests import options
from loadtests.benchmark import PLACES, interrupted
from loadtests.options import positive, whole
from loadtests.own_stack import LIMITS, Shop, own_shop, script
from loadtests.programs import BrokenRunError, Launch, Program, running
from loadtests.report import print_table
from loadtests.result import NO_PEER, Row, write
from loadtests.scenario import Stack
from loadtests.shop import NoShopError, page_target, read_goods
from loadtests.sides import scratch
from loadtests.story import Curve, Story
from services.deadline import Deadline
from services.keepalive import ExchangeError, Pool
from services.settings import cores

TIMES: Final = [1, 2, 4, 8, 16]
ARTICLES: Final = (2, 4)
ENOUGH: Final = 0.9  # of the best throughput: a pool that reaches it is large enough
CALLERS_A_CONNECTION: Final = 2  # of the largest pool: it is always wanted whole
AGAIN_S: Final = 0.02  # before a caller who was refused comes again
TIMEOUT_S: Final = 5.0
PROVIDER_MS: Final = 100.0  # a payment provider's answer; 20 of them a second use two connections
PRODUCTS: Final = 300
ALONE: Final = 0  # in place of a size: one caller, who never waits for a connection
BROKEN: Final = (BrokenRunError, NoShopError, ExchangeError, OSError, TimeoutError)


@dataclass(frozen=True, slots=True)
class Class:
    """A class of traffic: what is asked for, and where access sends it."""

    name: str
    method: bytes
    target: bytes
    upstream: str


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of so many callers at once for a while."""

    rate: float  # answers a second that were hoped for
    mean_ms: float  # of these
    p99_ms: float
    refused: int


async def sweep(chosen: argparse.Namespace) -> dict[str, dict[int, list[Measured]]]:
    """Of each class and each size, the rounds. All processes of access run at once."""
    found: dict[str, dict[int, list[Measured]]] = {}
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(scratch())
        shop = await stack.enter_async_context(own_shop(Stack(products=PRODUCTS)))
        scripted = await stack.enter_async_context(_scripted(folder))
        accesses: dict[int, dict[str, Program]] = {}
        kinds = [await _pages(shop), _payments(scripted)]
        for times in chosen.times:
            accesses[times] = {
                kind.name: await stack.enter_async_context(
                    _access(shop, kind, times * cores(), folder)
                )
                for kind in kinds
            }
        callers = CALLERS_A_CONNECTION * max(chosen.times) * cores()
        for kind in kinds:
            found[kind.name] = {times: [] for times in (ALONE, *chosen.times)}
            for number in range(chosen.rounds):
                widest = accesses[max(chosen.times)][kind.name]
                alone = await _call(widest, kind, callers=1, seconds=chosen.seconds / 2)
                found[kind.name][ALONE].append(alone)
                for times in reversed(chosen.times) if number % 2 else chosen.times:
                    access = accesses[times][kind.name]
                    await _call(access, kind, callers=callers, seconds=chosen.seconds / 2)
                    one = await _call(access, kind, callers=callers, seconds=chosen.seconds)
                    found[kind.name][times].append(one)
    return found


async def _pages(shop: Shop) -> Class:
    """Stock of a product: access may not hold it, so each is asked of business."""
    pool = Pool.to(shop.url, size=1)
    try:
        goods = await read_goods(pool, products=1, variants_of=0)
    finally:
        await pool.aclose()
    business = next(part for part in shop.parts() if part["name"] == "business")
    target = f"{page_target(goods.slugs[0])}/stock".encode()
    return Class("page", b"GET", target, f"http://{business['address']}")


def _payments(scripted: int) -> Class:
    return Class("payment", b"POST", b"/orders/1/payments", f"http://{LOOPBACK}:{scripted}")


@asynccontextmanager
async def _scripted(folder: Path) -> AsyncIterator[int]:
    port = free_port()
    command = [sys.executable, "-m", "loadtests.peers.scripted", str(port)]
    launch = Launch(command, port, ready_path="")  # it closes no connection, as asking would need
    async with running(launch, None, folder / "scripted.log"):
        await script(port, {"latency_ms": PROVIDER_MS})
        yield port


@asynccontextmanager
async def _access(shop: Shop, kind: Class, size: int, folder: Path) -> AsyncIterator[Program]:
    """Another access of the same stack, with pools of that size."""
    port = free_port()
    variables = DataFolder.at(shop.folder).running_state()["environment"]
    environment = {
        **variables,
        **LIMITS,
        "TERCET_ACCESS_HOST": LOOPBACK,
        "TERCET_ACCESS_PORT": str(port),
        "TERCET_ACCESS_INTERNAL_PORT": "0",
        "TERCET_BUSINESS_URL": kind.upstream,
        "TERCET_PAGE_POOL_SIZE": str(size),
        "TERCET_PAYMENT_POOL_SIZE": str(size),
        "TERCET_LOG_LEVEL": "WARNING",
    }
    command = [sys.executable, "-m", "infra.process", "access"]
    launch = Launch(command, port, environment, ready_path="/ready")
    async with running(launch, None, folder / f"access-{kind.name}-{size}.log") as access:
        yield access


async def _call(access: Program, kind: Class, *, callers: int, seconds: float) -> Measured:
    """A closed loop: each caller asks again when it has its answer; who is refused waits first."""
    pool = Pool(LOOPBACK, access.port, size=callers)
    took_ms: list[float] = []
    refused = 0
    ends_at = time.monotonic() + seconds
    body, headers = (b"{}", [(b"content-type", b"application/json")])

    async def caller() -> None:
        nonlocal refused
        while (began_at := time.monotonic()) < ends_at:
            answer = await pool.request(
                kind.method,
                kind.target,
                headers if kind.method == b"POST" else [],
                body if kind.method == b"POST" else b"",
                deadline=Deadline(began_at + TIMEOUT_S),
            )
            if answer.status == 200:
                took_ms.append((time.monotonic() - began_at) * 1000)
            elif answer.status == 503:
                refused += 1
                await asyncio.sleep(AGAIN_S)
            else:
                raise BrokenRunError(f"{kind.name}: {answer.status} {answer.body[:200]!r}")

    try:
        await asyncio.gather(*(caller() for _ in range(callers)))
    finally:
        await pool.aclose()
    if not took_ms:
        raise BrokenRunError(f"{kind.name}: nothing was answered, {refused} refused")
    took_ms.sort()
    p99_ms = took_ms[int(len(took_ms) * 0.99)]
    return Measured(len(took_ms) / seconds, statistics.mean(took_ms), p99_ms, refused)


@dataclass(frozen=True, slots=True)
class Point:
    """A size of the pool, as the medians of its rounds. needed: by Little's law, at its rate."""

    times: int
    rate: float
    p99_ms: float
    needed: float
    refused: float
    rates: Sequence[float]


def points_of(rounds: Mapping[int, Sequence[Measured]]) -> list[Point]:
    """The time of one request is that of a caller who is alone."""
    alone_s = statistics.median(one.mean_ms for one in rounds[ALONE]) / 1000
    points = []
    for times, each in rounds.items():
        if times != ALONE:
            rate = statistics.median(one.rate for one in each)
            p99_ms = statistics.median(one.p99_ms for one in each)
            refused = statistics.median(one.refused for one in each)
            rates = [one.rate for one in each]
            points.append(Point(times, rate, p99_ms, rate * alone_s, refused, rates))
    return points


def words(name: str, points: Sequence[Point]) -> str:
    """What the figures say of the article's rule."""
    best = max(point.rate for point in points)
    enough = next(point for point in points if point.rate >= ENOUGH * best)
    low, high = ARTICLES
    within = [point for point in points if low <= point.times <= high]
    share = max((point.rate for point in within), default=0.0) / best
    verdict = "holds" if share >= ENOUGH else "does not hold"
    return (
        f"{name}: {ENOUGH:.0%} of the best throughput ({best:,.0f}/s) is reached with "
        f"{enough.times} x cores; with {low} to {high} x cores it is {share:.0%}, so the rule "
        f"{verdict} here. In use by Little's law at the best: "
        f"{max(point.needed for point in points):.1f} connections."
    )


def print_points(found: Mapping[str, Sequence[Point]]) -> None:
    rows = [
        [
            f"{name}, {point.times} x cores",
            str(point.times * cores()),
            f"{point.rate:,.0f}",
            f"{min(point.rates):,.0f}-{max(point.rates):,.0f}",
            f"{point.p99_ms:.1f}",
            f"{point.needed:.1f}",
            f"{point.refused:,.0f}",
        ]
        for name, points in found.items()
        for point in points
    ]
    heads = ["class, pool", "connections", "answers/s", "rounds", "p99 ms", "by Little", "refused"]
    print_table(heads, rows)


def rows_of(found: Mapping[str, Sequence[Point]]) -> list[Row]:
    rows = []
    for name, points in found.items():
        for point in points:
            work = f"{name}, pool of {point.times} x cores"
            rows += [
                Row(work, round(point.rate, 1), "answers/s", note=NO_PEER),
                Row(f"{work}, p99", round(point.p99_ms, 2), "ms", note=NO_PEER),
                Row(f"{work}, in use", round(point.needed, 2), "by Little's law", note=NO_PEER),
            ]
    return rows


def story(command: str, found: Mapping[str, Sequence[Point]], said: Sequence[str]) -> Story:
    def curve(name: str, unit: str, of: str) -> Curve:
        lines = {
            kind: [(float(point.times), float(getattr(point, of))) for point in points]
            for kind, points in found.items()
        }
        return Curve(name, "pool, times the cores", unit, lines, True, " ".join(said))

    curves = [
        curve("throughput by pool size", "answers/s", "rate"),
        curve("99th percentile by pool size", "ms", "p99_ms"),
        curve("connections in use by Little's law", "connections", "needed"),
    ]
    return Story(command, curves=curves)


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    return _parser().parse_args(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = options.parser_of("pool_sweep", __doc__)
    add = parser.add_argument
    add("--times", type=_times, default=TIMES, help="the cores: sizes of the pools, by commas")
    add("--rounds", type=whole, default=3)
    add("--seconds", type=positive, default=3.0, help="of each size in each round")
    return parser


def _times(text: str) -> list[int]:
    return [whole(word) for word in text.split(",")]


def main(arguments: Sequence[str] | None = None) -> int:
    chosen, started_at = read_options(arguments), datetime.now(UTC)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            measured = runner.run(sweep(chosen))
    except BROKEN as error:
        print(f"broke: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        return interrupted()
    command = options.command("make pool-sweep", chosen, _parser(), without=PLACES)
    found = {name: points_of(rounds) for name, rounds in measured.items()}
    said = [words(name, points) for name, points in found.items()]
    print_points(found)
    print("\n" + "\n".join(said))
    path = write(
        "pool-sweep",
        rows_of(found),
        settings={"times": chosen.times, "rounds": chosen.rounds, "seconds": chosen.seconds},
        started_at=started_at,
        folder=chosen.results,
        story=story(command, found, said),
    )
    print(f"\nwritten to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
