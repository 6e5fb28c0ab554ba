"""Business killed, stopped or cut off, under load: experiments 31, 33, 42 and 52.

The short forms are for `make test`; the long forms measure, and go through access as well.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from services.addresses import Addresses
from services.balance import Balance
from services.exchange import Unknown
from tests.access.conftest import request
from tests.access.upstream import Upstream, always
from tests.failures.access_process import access
from tests.failures.business_process import SmallBusiness, small_business
from tests.failures.load import Load
from tests.failures.network import Network, network
from tests.failures.swarm import Swarm
from tests.faults.figures import record
from tests.faults.proxy import FaultProxy
from tests.faults.waiting import until

EJECTED_WITHIN_S: Final = 1.0
BACK_WITHIN_S: Final = 5.0
REFILLED_WITHIN_S: Final = 2.0
POSTS: Final = 12  # clients that send them, one at a time: so many can be in flight
DETECTED_WITHIN_S: Final = 2.0
RECOVERED_WITHIN_S: Final = 2.0


@asynccontextmanager
async def balance_over(*urls: str, size: int = 32) -> AsyncIterator[tuple[Balance, Addresses]]:
    addresses = Addresses(urls)
    balance = Balance(addresses, size=size)
    try:
        yield balance, addresses
    finally:
        await balance.aclose()
        await addresses.aclose()


@asynccontextmanager
async def two() -> AsyncIterator[tuple[SmallBusiness, SmallBusiness]]:
    async with small_business() as one, small_business() as other:
        yield one, other


async def used(addresses: Addresses, count: int, within_s: float) -> float:
    return await until(
        lambda: len(addresses.members.used) == count,
        within_s=within_s,
        what=f"{count} of the servers are used",
    )


async def answered(load: Load, count: int, within_s: float = 10) -> None:
    so_far = len(load.outcomes)
    await until(
        lambda: len(load.outcomes) >= so_far + count, within_s=within_s, what=f"{count} more"
    )


# Experiment 31


async def killed(before: int) -> dict[str, float]:
    """Kill one under load and start it again; what came of it."""
    async with two() as (one, other), balance_over(one.url, other.url) as (balance, addresses):
        async with Load(balance, gets=12, posts=POSTS) as load:
            await answered(load, before)
            part = balance.parts[0]
            await one.kill()
            await used(addresses, 1, within_s=2)
            await answered(load, before)
            await one.start()
            refilled_s = await used(addresses, 2, within_s=5)
            answered_total = part.address.answered_total
            await until(
                lambda: part.address.answered_total > answered_total, within_s=5, what="it serves"
            )
        posts = load.errors(b"POST")
        return {
            "requests": len(load.outcomes),
            "get_errors": len(load.errors(b"GET")),
            "post_errors": len(posts),
            "post_errors_not_unknown": sum(not isinstance(one.error, Unknown) for one in posts),
            "retried": balance.retried_total,
            "refilled_s": round(refilled_s, 3),
        }


def is_survived(figures: dict[str, float]) -> bool:
    return (
        figures["get_errors"] == 0
        and figures["post_errors_not_unknown"] == 0
        and figures["post_errors"] <= POSTS
        and figures["refilled_s"] <= REFILLED_WITHIN_S
    )


async def test_a_killed_business_costs_no_get_and_only_the_posts_it_had() -> None:
    figures = await killed(before=300)
    assert is_survived(figures), figures


@pytest.mark.faults
async def test_business_is_killed_again_and_again() -> None:
    rounds = [await killed(before=2000) for _ in range(10)]
    passed = all(is_survived(one) for one in rounds)
    record(
        31,
        "kill -9 one of two businesses, 10 times",
        passed,
        requests=sum(one["requests"] for one in rounds),
        get_errors=sum(one["get_errors"] for one in rounds),
        post_errors_worst=max(one["post_errors"] for one in rounds),
        posts_in_flight=POSTS,
        refilled_s_worst=max(one["refilled_s"] for one in rounds),
    )
    assert passed, rounds


# Experiment 33


async def stopped(before: int, stopped_s: float) -> dict[str, float]:
    """SIGSTOP one under load and continue it; what came of it."""
    async with two() as (one, other), balance_over(one.url, other.url) as (balance, addresses):
        async with Load(balance, gets=16, wait_s=2) as load:
            await answered(load, before)
            one.pause()
            stopped_at = time.monotonic()
            ejected_s = await used(addresses, 1, within_s=5)
            await answered(load, before)
            await asyncio.sleep(max(0.0, stopped_at + stopped_s - time.monotonic()))
            one.resume()
            back_s = await used(addresses, 2, within_s=15)
            await answered(load, before)
        return {
            "requests": len(load.outcomes),
            "errors": len(load.errors()),
            "error_share": round(len(load.errors()) / len(load.outcomes), 5),
            "slowest_s": round(max(one.ended_at - one.began_at for one in load.outcomes), 3),
            "ejected_s": round(ejected_s, 3),
            "back_s": round(back_s, 3),
        }


async def test_a_stopped_business_is_left_out_and_returns() -> None:
    figures = await stopped(before=300, stopped_s=0)
    assert figures["errors"] == 0, figures
    assert figures["ejected_s"] <= 1.5 * EJECTED_WITHIN_S, figures  # on a busy machine
    assert figures["back_s"] <= BACK_WITHIN_S, figures


@pytest.mark.faults
async def test_business_is_stopped_for_long() -> None:
    rounds = [await stopped(before=2000, stopped_s=10) for _ in range(3)]
    worst = {key: max(one[key] for one in rounds) for key in rounds[0]}
    passed = (
        worst["error_share"] <= 0.01
        and worst["ejected_s"] <= EJECTED_WITHIN_S
        and worst["back_s"] <= BACK_WITHIN_S
    )
    record(33, "SIGSTOP one of two businesses for 10 s, worst of 3", passed, **worst)
    assert passed, rounds


# Experiment 52


async def test_a_server_behind_a_path_that_swallows_everything_is_left_out() -> None:
    async with (
        Upstream() as one,
        Upstream() as other,
        FaultProxy("127.0.0.1", one.port) as proxy,
        balance_over(f"http://127.0.0.1:{proxy.port}", other.url) as (balance, addresses),
    ):
        async with Load(balance, gets=4, pause_s=0.002) as load:
            await answered(load, 50)
            proxy.set(drop=True)
            assert await used(addresses, 1, within_s=5) <= DETECTED_WITHIN_S
            proxy.set()
            proxy.reset_all()
            await used(addresses, 2, within_s=5)
        assert not load.errors()


async def cut_off(cut_s: float, *, alone: bool) -> dict[str, float]:
    """Drop all packets to a server without a word, for so long; what came of it.

    alone: there is no other to go to.
    """
    with network() as there:
        async with small_business(there.host, prefix=there.prefix) as far, small_business() as near:
            return await cut_under_load(there, cut_s, [far.url] if alone else [far.url, near.url])


async def cut_under_load(there: Network, cut_s: float, urls: list[str]) -> dict[str, float]:
    async with (
        balance_over(*urls) as (balance, addresses),
        Load(balance, gets=8, posts=2, pause_s=0.002, wait_s=5) as load,
    ):
        await answered(load, 500)
        address = balance.parts[0].address
        there.cut()
        cut_at = time.monotonic()
        if len(urls) == 1:
            await until(lambda: bool(load.errors()), within_s=8, what="it is seen")
        else:
            await used(addresses, 1, within_s=8)
        detected_s = time.monotonic() - cut_at
        await asyncio.sleep(max(0.0, cut_at + cut_s - time.monotonic()))
        served = address.answered_total
        there.mend()
        mended_at = time.monotonic()
        await until(lambda: address.answered_total > served, within_s=10, what="it serves again")
        recovered_s = time.monotonic() - mended_at
        await answered(load, 100)
    late = [one for one in load.errors() if one.began_at > mended_at + RECOVERED_WITHIN_S]
    return {
        "detected_s": round(detected_s, 3),
        "recovered_s": round(recovered_s, 3),
        "slowest_s": round(max(one.ended_at - one.began_at for one in load.outcomes), 3),
        "get_errors": len(load.errors(b"GET")),
        "errors_after_recovery": len(late),
        "requests": len(load.outcomes),
    }


@pytest.mark.faults
@pytest.mark.parametrize("alone", [True, False], ids=["alone", "one of two"])
async def test_a_server_that_is_cut_off_is_noticed_and_found_again(alone: bool) -> None:
    figures = await cut_off(10, alone=alone)
    passed = (
        figures["detected_s"] <= DETECTED_WITHIN_S
        and figures["recovered_s"] <= RECOVERED_WITHIN_S
        and figures["errors_after_recovery"] == 0
        and (alone or figures["get_errors"] == 0)
    )
    name = f"packets dropped for 10 s, {'the only business' if alone else 'one of two'}"
    record(52, name, passed, **figures)
    assert passed, figures


# Experiment 42


@pytest.mark.faults
async def test_clients_that_never_stop_trying_do_not_multiply() -> None:
    """Every exchange is broken off, and each client tries thrice, at once, for ever."""
    async with (
        Upstream(always(None)) as one,
        Upstream(always(None)) as other,
        balance_over(one.url, other.url) as (balance, _),
        Load(balance, gets=3 * 16, pause_s=0.02) as load,
    ):
        await asyncio.sleep(15)
    targets = [seen.target for seen in [*one.requests, *other.requests]]
    attempts = targets.count(b"/work")
    factor = attempts / balance.requests_total
    figures = {
        "requests": balance.requests_total,
        "attempts": attempts,
        "factor": round(factor, 4),
        "asked_whether_ready": len(targets) - attempts,  # whatever the load, twice a second
        "errors": len(load.errors()),
        "retries_refused": balance.budget.refused_total,
    }
    record(42, "clients try again, every exchange is broken off", factor <= 1.1, **figures)
    assert factor <= 1.1, figures


# Through access


async def goes_on(swarm: Swarm) -> None:
    so_far = swarm.answered
    await until(lambda: swarm.answered > so_far + 2000, within_s=20, what="2,000 answers more")


@pytest.mark.faults
async def test_clients_of_access_see_none_of_it(tmp_path: Path) -> None:
    """Experiments 31 and 33 for GETs of clients, with access as a process between."""
    async with two() as (one, other), Upstream() as unused:
        settings = {"TERCET_BUSINESS_URL": f"{one.url},{other.url}"}
        async with (
            access(unused, tmp_path, **settings) as (_, port),
            Swarm(port, request("/work"), clients=32) as swarm,
        ):
            await goes_on(swarm)
            await one.kill()
            await goes_on(swarm)
            await one.start()
            await goes_on(swarm)
            await goes_on(swarm)
            lost_by_kill = len(swarm.lost)
            one.pause()
            await asyncio.sleep(5)
            one.resume()
            await goes_on(swarm)
    figures = {
        "answered": swarm.answered,
        "shed": swarm.shed,
        "lost": len(swarm.lost),
        "lost_by_kill": lost_by_kill,
        "statuses": sorted(swarm.statuses),
        "slowest_s": round(max(swarm.latencies_s), 3),
    }
    passed = not swarm.lost and swarm.statuses == {200}
    record(31, "kill -9 and SIGSTOP of one of two businesses behind access", passed, **figures)
    assert passed, figures
