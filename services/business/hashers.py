"""The processes that hash, as business sees them: started when needed, replaced when lost."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from services.business import hasher
from services.problems import Unavailable
from services.tasks import end_tasks
from services.telemetry import logger

log = logger(__name__)

# Isolated: it imports what is installed, and nothing that a folder or a variable puts before that.
COMMAND: Final = (sys.executable, "-I", str(Path(hasher.__file__)))
ANSWER_S: Final = 10.0  # twice what access waits: whoever has not answered by then is stuck
END_S: Final = 1.0  # for one that was killed
TRIES: Final = 2  # a process that was lost while it was idle costs nobody anything
LOST: Final = (OSError, TimeoutError, asyncio.IncompleteReadError)


class Hashers:
    """So many processes; each has one hash in hand, the others wait in the order of their coming.

    lost_total: how often one was gone or stuck when it was to answer.
    """

    def __init__(
        self, count: int, command: Sequence[str] = COMMAND, *, answer_s: float = ANSWER_S
    ) -> None:
        self.lost_total = 0
        self._command = command
        self._answer_s = answer_s
        self._processes: list[Process | None] = [None] * count
        self._free: asyncio.Queue[int] = asyncio.Queue()
        for place in range(count):
            self._free.put_nowait(place)
        self._exchanges: set[asyncio.Task[Any]] = set()

    async def ask(self, asked: Mapping[str, str | None]) -> Any:
        """One answer of hasher.py. Raises Unavailable where two processes in turn gave none.

        Whoever leaves takes its work along, unless a process is at it: that goes on, and its
        answer is nobody's.
        """
        place = await self._free.get()
        exchange = asyncio.create_task(self._exchange(place, json.dumps(asked).encode() + b"\n"))
        self._exchanges.add(exchange)
        exchange.add_done_callback(partial(self._over, place))
        return await asyncio.shield(exchange)

    def pids(self) -> list[int]:
        """Of the processes that were started and not seen to end."""
        return [process.pid for process in self._processes if process is not None]

    async def aclose(self) -> None:
        """End all of them; a hash that is under way is no loss."""
        await end_tasks(*self._exchanges)
        await asyncio.gather(*map(self._end, range(len(self._processes))))

    def _over(self, place: int, exchange: asyncio.Task[Any]) -> None:
        self._exchanges.discard(exchange)
        self._free.put_nowait(place)

    async def _exchange(self, place: int, request: bytes) -> Any:
        for _ in range(TRIES):
            try:
                async with asyncio.timeout(self._answer_s):
                    return await _answer(await self._running(place), request)
            except LOST as error:
                self.lost_total += 1
                log.warning("a hasher was lost", error=repr(error))
                await self._end(place)
        raise Unavailable("The password could not be looked at.", retry_after_s=1)

    async def _running(self, place: int) -> Process:
        process = self._processes[place]
        if process is None or process.returncode is not None:
            # In a session of its own, so that it can give way: see hasher.py.
            process = await asyncio.create_subprocess_exec(
                *self._command, stdin=PIPE, stdout=PIPE, start_new_session=True
            )
            self._processes[place] = process
        return process

    async def _end(self, place: int) -> None:
        process, self._processes[place] = self._processes[place], None
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()
            # Somebody else in this process may have been told of its end: it is over either way.
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), END_S)


async def _answer(process: Process, request: bytes) -> Any:
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("a hasher was started without pipes")
    process.stdin.write(request)
    return json.loads(await process.stdout.readuntil(b"\n"))
