"""`make peak`: the promotion in small, everything breaking meanwhile, and the proof afterwards.

Exit code 0: targets held, every part mended itself in its time, every payment became final, and
every rule of `tercet prove` holds.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

import uvloop

from loadtests import options
from loadtests.benchmark import PLACES, interrupted
from loadtests.outcome import Outcome, conclude, print_outcome
from loadtests.own_stack import own_shop
from loadtests.perform import perform
from loadtests.profiles import PROFILES, Run
from loadtests.programs import BrokenRunError
from loadtests.scenario import Scenario, ScenarioError, find, read
from loadtests.settling import all_final, prove
from loadtests.shop import NoShopError
from services.keepalive import ExchangeError


async def peak(chosen: argparse.Namespace, scenario: Scenario) -> tuple[Outcome, str]:
    """The run with all that is found out after it, and what the proof said."""
    async with own_shop(scenario.stack) as shop:
        print(f"{scenario.title}, at {shop.url}", flush=True)
        run = Run.of(scenario, PROFILES["average"], seconds=chosen.seconds, load=chosen.load)
        outcome = await perform(run, shop, processes=1, seed=chosen.seed, show=True)
        final = await all_final(shop)
        proved, said = await prove(shop)
        outcome.checks = [*outcome.checks, final, proved]
        return outcome, said


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    return _parser().parse_args(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = options.parser_of("peak", __doc__)
    add = parser.add_argument
    add("--scenario", default="peak", help="another file with its own faults")
    add("--seconds", type=options.positive, help="the whole timetable stretched to that length")
    add("--load", type=options.positive, default=1.0, help="times the rates of the scenario")
    add("--seed", type=int, default=1)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = read_options(arguments)
    started_at = datetime.now(UTC)
    try:
        scenario = read(find(chosen.scenario))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            outcome, said = runner.run(peak(chosen, scenario))
    except (ScenarioError, BrokenRunError, NoShopError, ExchangeError) as error:
        print(f"broke: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        return interrupted()
    outcome.command = options.command("make peak", chosen, _parser(), without=PLACES)
    print_outcome(outcome)
    print(f"\n{said}")
    settings = {"scenario": chosen.scenario, "load": chosen.load, "seed": chosen.seed}
    return conclude(
        [outcome],
        "peak",
        settings={**settings, "seconds": outcome.run.seconds},
        started_at=started_at,
        folder=chosen.results,
    )


if __name__ == "__main__":
    sys.exit(main())
