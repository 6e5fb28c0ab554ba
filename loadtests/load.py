"""`make load`: a scenario against a running stack, by an open loop, with targets that hold or not.

Exit code 0: all was sent and every target held; 1: not so; 69: there is nothing to load.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from infra.local.folder import DEFAULT_DATA_DIR, NotRunningError
from loadtests import compare, options
from loadtests.benchmark import PLACES, interrupted
from loadtests.outcome import Outcome, conclude, print_outcome, worth_showing
from loadtests.own_stack import Shop, own_shop, running_shop
from loadtests.perform import perform
from loadtests.preparing import look_at_pages
from loadtests.profiles import PROFILES, Run, next_step
from loadtests.programs import BrokenRunError
from loadtests.scenario import Scenario, ScenarioError, find, read
from loadtests.shop import NoShopError
from services.keepalive import ExchangeError

NOT_TOLD: Final = (*PLACES, "name", "compare", "list")  # of no interest to who reads a result


async def load(chosen: argparse.Namespace, scenario: Scenario) -> list[Outcome]:
    """All runs that the profile is made of: one, or steps up to the one that misses a target."""
    async with AsyncExitStack() as stack:
        if chosen.own_stack:
            shop = await stack.enter_async_context(own_shop(scenario.stack))
        else:
            shop = running_shop(chosen.url, chosen.data_dir)
            _check_stack(scenario, shop)
        profile = PROFILES[chosen.profile]
        if chosen.warm_up_s:
            await _warm_up(chosen, scenario, shop)
        if profile.name != "breakpoint":
            run = Run.of(scenario, profile, seconds=chosen.seconds, load=chosen.load)
            return [await _one(chosen, run, shop)]
        return await _to_the_knee(chosen, scenario, shop)


async def _to_the_knee(chosen: argparse.Namespace, scenario: Scenario, shop: Shop) -> list[Outcome]:
    """The steps, the lightest first. One that misses is run once more before that is believed:
    a machine may have been busy for a moment."""
    outcomes: list[Outcome] = []
    tried: dict[float, bool] = {}
    while (step := next_step(tried)) is not None:
        load = chosen.load * step
        run = Run.of(scenario, PROFILES["breakpoint"], seconds=chosen.seconds, load=load)
        outcome = await _one(chosen, run, shop)
        if not outcome.held:
            outcome.print_step("; once more")
            outcome = await _one(chosen, run, shop)
        outcome.print_step()
        outcomes.append(outcome)
        tried[step] = outcome.held
    return sorted(outcomes, key=lambda outcome: outcome.run.load)


async def _one(chosen: argparse.Namespace, run: Run, shop: Shop) -> Outcome:
    return await perform(run, shop, processes=chosen.processes, seed=chosen.seed, show=True)


async def _warm_up(chosen: argparse.Namespace, scenario: Scenario, shop: Shop) -> None:
    """Without sale and faults, which happen once; each page is held then."""
    traffic = tuple(one for one in scenario.traffic if one.does not in ("claim", "idle", "live"))
    if traffic:
        calm = msgspec.structs.replace(scenario, traffic=traffic, sale=None, fault=())
        run = Run.of(calm, PROFILES["warm-up"], seconds=chosen.warm_up_s, load=chosen.load)
        if any(one.does == "page" for one in traffic):
            await look_at_pages(run, shop)
        await perform(run, shop, processes=1, seed=chosen.seed + 1_000_003)


def _check_stack(scenario: Scenario, shop: Shop) -> None:
    if scenario.stack.needed:
        raise NoShopError(f"{scenario.title}: needs a stack of its own (--own-stack)")
    if scenario.fault and shop.data_dir is None:
        raise NoShopError("its faults are for a stack that runs on this machine, or --own-stack")


def _check_profile(scenario: Scenario, profile: str) -> None:
    if profile == "breakpoint" and any(one.does == "failover" for one in scenario.fault):
        raise ScenarioError(
            f"{scenario.title}: happens once, and breakpoint runs it again and again"
        )


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    return _parser().parse_args(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = options.parser_of("load", __doc__)
    add = parser.add_argument
    add("--scenario", default="shop", help="one of loadtests/scenarios, or a file like those")
    add("--profile", default="average", choices=list(PROFILES), help="how hard, and how long")
    add("--list", action="store_true", help="say which scenarios and profiles there are")
    add("--compare", nargs=2, type=Path, metavar=("A", "B"), help="two results: ratios of B to A")
    add("--url", help="the shop; without it, the stack that runs on the data folder")
    add("--data-dir", type=Path, default=DEFAULT_DATA_DIR, help="of the local stack")
    add("--own-stack", action="store_true", help="start one for it, as the scenario wants it")
    add("--seconds", type=options.positive, help="instead of the profile's length")
    add("--load", type=options.positive, default=1.0, help="times the rates of the scenario")
    add("--processes", type=options.whole, default=1, help="that send, each its share")
    add("--warm-up-s", type=options.not_negative, default=2.0, help="before it, not measured")
    add("--seed", type=int, default=1)
    add("--name", help="of the result file, without .json")
    return parser


def _command(chosen: argparse.Namespace) -> str:
    """By which somebody else does the same."""
    make = f"make load SCENARIO={chosen.scenario} PROFILE={chosen.profile}"
    return options.command(make, chosen, _parser(), without=("scenario", "profile", *NOT_TOLD))


def list_all() -> int:
    from loadtests.scenario import SCENARIOS

    print("scenarios (loadtests/scenarios):")
    for file in sorted(SCENARIOS.glob("*.toml")):
        print(f"  {file.stem:<14}{read(file).title}")
    print("profiles:")
    for profile in PROFILES.values():
        print(f"  {profile.name:<14}{profile.about}")
    return 0


def measure(chosen: argparse.Namespace) -> int:
    """Run it, print and write what came of it; the exit code."""
    started_at = datetime.now(UTC)
    scenario = read(find(chosen.scenario))
    _check_profile(scenario, chosen.profile)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            outcomes = runner.run(load(chosen, scenario))
    except ExchangeError as error:
        raise NoShopError(f"nothing to load at {chosen.url or 'the stack'}: {error}") from None
    print_outcome(worth_showing(outcomes))
    settings = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in vars(chosen).items()
        if name not in NOT_TOLD and value is not None
    }
    for outcome in outcomes:
        outcome.command = _command(chosen)
    name = chosen.name or f"load-{Path(chosen.scenario).stem}"
    return conclude(outcomes, name, settings=settings, started_at=started_at, folder=chosen.results)


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = read_options(arguments)
    try:
        if chosen.list:
            return list_all()
        if chosen.compare:
            return compare.compare(*chosen.compare)
        return measure(chosen)
    except (NotRunningError, NoShopError, compare.NotComparableError) as error:
        print(error, file=sys.stderr)
        return os.EX_UNAVAILABLE
    except (ScenarioError, BrokenRunError) as error:
        print(error, file=sys.stderr)
        return os.EX_DATAERR if isinstance(error, ScenarioError) else 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        return interrupted()


if __name__ == "__main__":
    sys.exit(main())
