"""The works of `make bench-payments`: paying and claiming through all three tiers, and pgbench."""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from loadtests.comparison import ratio_row
from loadtests.data_bench import reported
from loadtests.data_stack import DataStack
from loadtests.data_works import HOLD_SCRIPT, INSERT_SCRIPT, MAKE_TABLE
from loadtests.payments_goods import Goods, claims, payments
from loadtests.pinning import Cores
from loadtests.posts import write_posts
from loadtests.programs import BrokenRunError, Program, output_of
from loadtests.result import Aim, Row
from loadtests.usage import UsageMeter

T = TypeVar("T")

PAYMENTS_AIM: Final = Aim("at least", 0.15)
CLAIMS_AIM: Final = Aim("at least", 5.0)
SHORT_AIM: Final = Aim("at most", 3.0)
REFUSED: Final = "not 201: HTTP/1.1 503"
# Requests are made before they are sent: more than any machine here sends in a second.
REQUESTS_A_SECOND: Final = 5_000


@dataclass(frozen=True)
class Bench:
    """What every work needs to know. access: where the load goes."""

    stack: DataStack
    access: Program
    goods: Goods
    cores: Cores
    rounds: int
    seconds: float
    warm_up_s: float
    connections: int
    folder: Path

    @property
    def host(self) -> str:
        return self.access.url("").removeprefix("http://")

    async def pgbench(self, script: str) -> float:
        return await self.stack.pgbench(
            script, clients=self.connections, seconds=self.seconds, core=self.cores.generator
        )


@dataclass(frozen=True)
class Posted:
    """What became of requests that were sent for a while, and what they cost each process."""

    rate: float
    p50_ms: float
    p99_ms: float
    cpu_us: Mapping[str, float]
    refused: int


async def post(
    bench: Bench,
    requests: Sequence[bytes],
    *,
    close: bool = False,
    seconds: float,
    may_refuse: bool = False,
) -> Posted:
    """Send them in a closed loop; BrokenRunError where any got another answer than 201, or 503 by
    access where that may refuse what is too much."""
    file = bench.folder / "requests"
    write_posts(file, requests)
    usage = UsageMeter(bench.stack.folder.running_state()["parts"])
    command = [sys.executable, "-m", "loadtests.posts", "--url", bench.access.url()]
    command += [f"--requests={file}", f"--connections={bench.connections}"]
    command += [f"--seconds={seconds}", *(["--close"] if close else [])]
    outcome = json.loads(await output_of(command, bench.cores.generator))
    answers = outcome["answers"]
    refused = outcome["errors"].pop(REFUSED, 0) if may_refuse else 0
    if not answers or outcome["errors"]:
        raise BrokenRunError(f"{answers} answers and errors: {outcome['errors']}")
    cpu_us = {part.name: (part.cpu_s or 0.0) * 1e6 / answers for part in usage.read()}
    return Posted(
        answers / outcome["seconds"], outcome["p50_ms"], outcome["p99_ms"], cpu_us, refused
    )


async def paying(bench: Bench) -> list[Row]:
    """Payments of orders that exist, on connections that stay and on short ones."""
    async with bench.stack.owner() as owner:
        await owner.execute(MAKE_TABLE)

    async def pay(*, close: bool, seconds: float) -> Posted:
        count = round(seconds * REQUESTS_A_SECOND) + bench.connections
        requests = await payments(bench.stack, bench.goods, bench.host, count, close=close)
        return await post(bench, requests, close=close, seconds=seconds)

    if bench.warm_up_s:
        await pay(close=False, seconds=bench.warm_up_s)
    kept: list[Posted] = []
    short: list[Posted] = []
    theirs: list[float] = []
    for number in range(bench.rounds):
        turns: list[Callable[[], Awaitable[None]]] = [
            _into(kept, lambda: pay(close=False, seconds=bench.seconds)),
            _into(theirs, lambda: bench.pgbench(INSERT_SCRIPT)),
            _into(short, lambda: pay(close=True, seconds=bench.seconds)),
        ]
        for turn in reversed(turns) if number % 2 else turns:
            await turn()
    work, peer = f"payments, c={bench.connections}", "pgbench, one insert each"
    ours_ms, short_ms = [one.p99_ms for one in kept], [one.p99_ms for one in short]
    label = f"{work}, each on its own connection"
    return [
        ratio_row(work, "payments/s", [one.rate for one in kept], peer, theirs, aim=PAYMENTS_AIM),
        reported(f"{work}, p50", "ms", [one.p50_ms for one in kept]),
        reported(f"{work}, p99", "ms", ours_ms),
        *_cpu_rows(work, kept),
        reported(label, "payments/s", [one.rate for one in short]),
        ratio_row(f"{label}, p99", "ms", short_ms, "kept connections", ours_ms, aim=SHORT_AIM),
    ]


async def claiming(bench: Bench) -> list[Row]:
    """Claims of one hot product in a flash sale; each is an order that is placed."""

    async def claim(seconds: float) -> Posted:
        count = round(seconds * REQUESTS_A_SECOND) + bench.connections
        return await post(
            bench, claims(bench.goods, bench.host, count), seconds=seconds, may_refuse=True
        )

    if bench.warm_up_s:
        await claim(bench.warm_up_s)
    ours: list[Posted] = []
    theirs: list[float] = []
    hold = HOLD_SCRIPT.format(variant_id=bench.goods.hot)
    for number in range(bench.rounds):
        turns: list[Callable[[], Awaitable[None]]] = [
            _into(ours, lambda: claim(bench.seconds)),
            _into(theirs, lambda: bench.pgbench(_undone(hold))),
        ]
        for turn in reversed(turns) if number % 2 else turns:
            await turn()
    work, peer = f"claims of one hot product, c={bench.connections}", "pgbench, the hot row alone"
    return [
        ratio_row(work, "claims/s", [one.rate for one in ours], peer, theirs, aim=CLAIMS_AIM),
        reported(f"{work}, p50", "ms", [one.p50_ms for one in ours]),
        reported(f"{work}, p99", "ms", [one.p99_ms for one in ours]),
        reported(f"{work}, refused by access", "in all", [one.refused for one in ours]),
        *_cpu_rows(work, ours),
    ]


WORKS: Final[dict[str, Callable[[Bench], Awaitable[list[Row]]]]] = {
    "payments": paying,
    "claims": claiming,
}


def _undone(hold: str) -> str:
    """The same transaction on the same row with nothing held at the end: the books stay right."""
    return hold.replace("available - 1, held = held + 1", "available, held = held")


def _into(figures: list[T], measure: Callable[[], Awaitable[T]]) -> Callable[[], Awaitable[None]]:
    async def turn() -> None:
        figures.append(await measure())

    return turn


def _cpu_rows(work: str, figures: Sequence[Posted]) -> list[Row]:
    """Of every process, and of all together."""
    names = sorted({name for one in figures for name in one.cpu_us})
    rows = [
        reported(
            f"{work}, CPU of {name}", "us each", [one.cpu_us.get(name, 0.0) for one in figures]
        )
        for name in names
    ]
    total = [sum(one.cpu_us.values()) for one in figures]
    return [*rows, reported(f"{work}, CPU of all", "us each", total)]
