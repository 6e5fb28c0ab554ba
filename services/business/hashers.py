"""The processes that hash, as business sees them: started when needed, replaced when lost."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from services.business import hasher
from services.problems import Unavailable
from services.tasks import end_tasks
from services.telemetry import logger

log = logger(__name__)

# Isolated: it imports what is installed, and nothing that a folder or a variable puts before that.
COMMAND: Final = (sys.executable, "-I", str(Path(hasher.__file__)))
ANSWER_S: Final = 10.0  # twice what access waits: whoever has not answered by then is stuck
END_S: Final = 1.0  # for one that was killed, which takes a millisecond
END_POLL_S: Final = 0.002
TRIES: Final = 2  # a process that was lost while it was idle costs nobody anything
LOST: Final = (OSError, TimeoutError, asyncio.IncompleteReadError)


class Hasher(NamedTuple):
    """A process and the line to it.

    It is not the event loop's child: to be told of its end a loop needs the signal SIGCHLD, which
    is the process's, and may be somebody else's. Its end is the end of the line.
    """

    process: subprocess.Popen[bytes]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def started(cls, command: Sequence[str]) -> Hasher:
        ours, theirs = socket.socketpair()
        try:
            # In a thread: a process is started by waiting for it.
            process = await asyncio.to_thread(_start, command, theirs)
        except BaseException:
            ours.close()  # one that was started all the same ends with its line
            raise
        return cls(process, *await asyncio.open_connection(sock=ours))

    async def answer(self, request: bytes) -> Any:
        self.writer.write(request)
        return json.loads(await self.reader.readuntil(b"\n"))

    async def end(self) -> None:
        """Have it gone, and what is left of it."""
        self.writer.transport.abort()
        self.process.kill()
        give_up_at = time.monotonic() + END_S
        while self.process.poll() is None and time.monotonic() < give_up_at:  # noqa: ASYNC110  # a process sets no asyncio.Event
            await asyncio.sleep(END_POLL_S)


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
        self._processes: list[Hasher | None] = [None] * count
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
        return [one.process.pid for one in self._processes if one is not None]

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
                    return await (await self._running(place)).answer(request)
            except LOST as error:
                self.lost_total += 1
                log.warning("a hasher was lost", error=repr(error))
                await self._end(place)
        raise Unavailable("The password could not be looked at.", retry_after_s=1)

    async def _running(self, place: int) -> Hasher:
        hasher = self._processes[place]
        if hasher is None:
            hasher = self._processes[place] = await Hasher.started(self._command)
        return hasher

    async def _end(self, place: int) -> None:
        hasher, self._processes[place] = self._processes[place], None
        if hasher is not None:
            await hasher.end()


def _start(command: Sequence[str], line: socket.socket) -> subprocess.Popen[bytes]:
    """In a session of its own, so that it can give way: see hasher.py. Closes this end's line."""
    with line:
        return subprocess.Popen(
            command, stdin=line.fileno(), stdout=line.fileno(), start_new_session=True
        )
