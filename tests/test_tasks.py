"""Background tasks end when they are told to, also those that miss a first cancellation."""

from __future__ import annotations

import asyncio

from services.tasks import end_tasks


async def test_a_task_that_misses_two_cancellations_is_ended_by_the_third() -> None:
    missed = 0

    async def stubborn() -> None:
        nonlocal missed
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if missed == 2:
                    raise
                missed += 1

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    await end_tasks(task)
    assert task.cancelled()
    assert missed == 2


async def test_what_a_task_raises_at_its_end_is_no_concern_of_whoever_ends_it() -> None:
    async def bitter() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise RuntimeError("not like this")

    task = asyncio.create_task(bitter())
    await asyncio.sleep(0)
    await end_tasks(task)
    assert isinstance(task.exception(), RuntimeError)


async def test_a_task_that_has_ended_already_is_left_as_it_is() -> None:
    async def quick() -> int:
        return 7

    task = asyncio.create_task(quick())
    assert await task == 7
    await end_tasks(task)
    assert task.result() == 7
