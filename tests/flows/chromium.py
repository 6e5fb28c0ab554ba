"""A headless Chromium, driven by its own debugging protocol over a pipe: nothing to install."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest

from tests.faults.waiting import until

NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
OPTIONS: Final = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--no-first-run", "--disable-extensions", "--disable-background-networking"),
    *("--remote-debugging-pipe",),
)
ANSWERED_WITHIN_S: Final = 30.0


class Browser:
    """One page of it. Messages end with a zero byte, in and out."""

    def __init__(self, to: asyncio.StreamWriter, of: asyncio.StreamReader) -> None:
        self._to, self._of = to, of
        self._numbers = itertools.count(1)
        self._session = ""

    async def open(self, url: str) -> None:
        """Go to a page, in the only tab there is."""
        made = await self._call("Target.createTarget", url=url)
        found = await self._call("Target.attachToTarget", targetId=made["targetId"], flatten=True)
        self._session = found["sessionId"]

        async def is_there() -> bool:
            return bool(await self.run("location.href + document.readyState") == url + "complete")

        await until(is_there, within_s=ANSWERED_WITHIN_S, what=f"{url} is shown")

    async def run(self, script: str) -> Any:
        """The value of an expression on the page, as JSON has it; promises are waited for."""
        answer = await self._call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._to.write(json.dumps(message).encode() + b"\0")
        async with asyncio.timeout(ANSWERED_WITHIN_S):
            while True:
                said: dict[str, Any] = json.loads((await self._of.readuntil(b"\0"))[:-1])
                if said.get("id") == number:
                    assert "error" not in said, said
                    result: dict[str, Any] = said["result"]
                    return result


@asynccontextmanager
async def chromium(folder: Path) -> AsyncIterator[Browser]:
    """A browser without a past; its tests are skipped where there is none."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("no Chromium is installed")
    commands, answers = os.pipe(), os.pipe()

    def give_pipes() -> None:
        os.dup2(commands[0], 3)
        os.dup2(answers[1], 4)

    process = await asyncio.create_subprocess_exec(
        *(program, *OPTIONS, f"--user-data-dir={folder}", "about:blank"),
        preexec_fn=give_pipes,
        close_fds=False,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    os.close(commands[0])
    os.close(answers[1])
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=2**24)
    incoming, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(answers[0], "rb", 0)
    )
    outgoing, protocol = await loop.connect_write_pipe(
        asyncio.streams.FlowControlMixin, os.fdopen(commands[1], "wb", 0)
    )
    try:
        yield Browser(asyncio.StreamWriter(outgoing, protocol, None, loop), reader)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        for pipe in (outgoing, incoming):
            if not pipe.is_closing():  # which it is once the browser's end of it is
                pipe.close()
