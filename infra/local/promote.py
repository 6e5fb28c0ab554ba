"""`tercet promote` asks the supervisor by a file and a signal, and reads its answer from a file.

Only the supervisor may do it: it is the one that would start the old primary again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import uuid4

from infra.local.cluster import Cluster
from infra.local.folder import DataFolder
from infra.local.parts import NotReadyError
from infra.local.processes import same_process, wait_until
from infra.local.promotion import Promotion, PromotionRefusedError, keep_committing

SIGNAL: Final = signal.SIGUSR1
ANSWER_WITHIN_S: Final = 30.0  # stopping 2 s, promoting 10 s at most


class Answer(NamedTuple):
    done: bool
    said: str


def promote(folder: DataFolder, *, force: bool) -> int:
    """The command: 0 when a standby was promoted, 1 when that was refused or failed."""
    answer = ask(folder, force=force)
    print(answer.said if answer.done else f"tercet promote: {answer.said}", file=_stream(answer))
    return 0 if answer.done else 1


def _stream(answer: Answer) -> Any:
    return sys.stdout if answer.done else sys.stderr


def ask(folder: DataFolder, *, force: bool) -> Answer:
    """Have the supervisor of the stack on `folder` promote a standby, and wait for its word."""
    entry = folder.running_state()["supervisor"]
    supervisor = same_process(entry["pid"], entry["created"])
    if supervisor is None:
        return Answer(False, "the supervisor does not run")
    number = uuid4().hex
    _write(_request_file(folder), {"number": number, "force": force})
    supervisor.send_signal(SIGNAL)
    if not wait_until(lambda: _read(_answer_file(folder)).get("number") == number, ANSWER_WITHIN_S):
        return Answer(False, f"no answer; see {folder.log / 'supervisor.log'}")
    said = _read(_answer_file(folder))
    return Answer(bool(said["done"]), str(said["said"]))


class Promotions:
    """The supervisor's side: one request at a time, and what has to be watched after it."""

    def __init__(self, cluster: Cluster, folder: DataFolder, log: logging.Logger) -> None:
        self._cluster = cluster
        self._folder = folder
        self._log = log
        self._tasks: set[asyncio.Task[None]] = set()

    def listen(self, changed: Callable[[], None]) -> None:
        """Answer requests from now on; changed() is called after each."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(SIGNAL, lambda: self._begin(self._answer(changed)))
        if self._cluster.nodes and self._cluster.alone:  # the last run ended before one streamed
            self._begin(keep_committing(self._cluster, self._log))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, changed: Callable[[], None]) -> None:
        request = _read(_request_file(self._folder))
        _request_file(self._folder).unlink(missing_ok=True)
        done, said = await self._try(force=bool(request.get("force")))
        self._log.info("promotion: %s", said)
        changed()
        _write(_answer_file(self._folder), {**request, "done": done, "said": said})
        if done:
            await keep_committing(self._cluster, self._log)

    async def _try(self, *, force: bool) -> Answer:
        if not self._cluster.nodes:
            return Answer(False, "the servers are somebody else's")
        try:
            return Answer(True, await Promotion(self._cluster, self._log, force=force).run())
        except (PromotionRefusedError, NotReadyError, OSError) as error:
            return Answer(False, str(error) or type(error).__name__)
        except Exception as error:
            self._log.exception("promotion failed")
            return Answer(False, repr(error))


def _request_file(folder: DataFolder) -> Path:
    return folder.run / "promote.request"


def _answer_file(folder: DataFolder) -> Path:
    return folder.run / "promote.answer"


def _write(file: Path, content: Mapping[str, Any]) -> None:
    fresh = file.with_name(f"{file.name}.{os.getpid()}")
    fresh.write_text(json.dumps(content))
    fresh.replace(file)


def _read(file: Path) -> dict[str, Any]:
    with suppress(FileNotFoundError, json.JSONDecodeError):
        content = json.loads(file.read_text())
        return content if isinstance(content, dict) else {}
    return {}
