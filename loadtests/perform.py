"""One run of a scenario: prepared, loaded, watched, its faults played, its targets looked at."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any, Final

from loadtests.crew import run_crew
from loadtests.faults import Faults, Played, recoveries
from loadtests.outcome import Outcome
from loadtests.own_stack import Shop
from loadtests.preparing import open_sale, prepare
from loadtests.profiles import Run
from loadtests.report import ProgressLine
from loadtests.sampling import Sampler
from loadtests.shop import Goods
from loadtests.usage import UsageMeter
from loadtests.verdicts import checks

WARM: Final = 0.2  # of a run, after which what can be held is held and memory should stay


async def perform(
    run: Run, shop: Shop, *, processes: int, seed: int, show: bool = False
) -> Outcome:
    """Do it, and tell what came of it. Raises NoShopError, BrokenRunError, ExchangeError."""
    goods = await prepare(run, shop)
    meter = UsageMeter(shop.parts())
    line = ProgressLine(run.seconds, show=show)
    async with AsyncExitStack() as stack:
        watch = _Watch(run, shop, stack)

        async def stocked() -> Goods:
            return await open_sale(run, shop.url, goods, shop.operator_token)

        def began(at: float) -> None:
            line.began(at)
            watch.began(at)

        ended = await run_crew(
            run,
            shop.url,
            processes=processes,
            seed=seed,
            goods=stocked,
            began=began,
            heard=line.heard,
        )
        line.clear()
        played = await watch.ended()
    found = [
        *checks(run, ended.recorders),
        *recoveries(played, ended.recorders),
    ]
    return Outcome(
        run=run,
        url=shop.url,
        processes=processes,
        ended=ended,
        parts=meter.read(),
        series=watch.sampler.series() if watch.sampler else [],
        grown=watch.sampler.grown(run.seconds * WARM) if watch.sampler else {},
        played=played,
        checks=found,
    )


class _Watch:
    """What goes on beside the load, from when it begins: samples of the parts, and the faults."""

    def __init__(self, run: Run, shop: Shop, stack: AsyncExitStack) -> None:
        self._run, self._shop, self._stack = run, shop, stack
        self._faults: asyncio.Task[list[Played]] | None = None
        self.sampler: Sampler | None = None

    def began(self, began_at: float) -> None:
        self.sampler = Sampler(self._shop.parts, began_at)
        self.sampler.start()
        self._stack.push_async_callback(self.sampler.aclose)
        faults, data_dir = self._run.scenario.fault, self._shop.data_dir
        if faults and data_dir is not None:
            player = Faults(data_dir)
            self._stack.callback(player.resume_all, faults)
            self._faults = asyncio.create_task(player.play(faults, began_at, self._run.stretch))
            self._stack.push_async_callback(_cancelled, self._faults)

    async def ended(self) -> list[Played]:
        """The faults that were played, when all of them are over."""
        return await self._faults if self._faults else []


async def _cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
