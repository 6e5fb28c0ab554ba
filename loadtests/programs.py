"""The programs a benchmark runs: started on a core, waited for, measured, and ended with it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from infra.local.addresses import LOOPBACK, get
from infra.local.processes import memory_bytes, spawn, tied_to_this_process
from loadtests.answers import request_bytes
from loadtests.pinning import on_core
from loadtests.result import PROJECT

READY_S: Final = 30.0  # the slowest is access on a busy machine, with nothing compiled yet
POLL_S: Final = 0.05
ASK_S: Final = 5.0
STOP_S: Final = 5.0  # access lets what is in flight end for 3 s
SAID_CHARACTERS: Final = 2000  # of the log of a program that failed


class BrokenRunError(Exception):
    """A figure would not be what it says; the message tells why."""


@dataclass(frozen=True, slots=True)
class Launch:
    """What to start and how to see that it answers."""

    command: Sequence[str]
    port: int
    environment: Mapping[str, str] = field(default_factory=dict)
    ready_path: str = "/"  # "": it has no HTTP, listening is enough
    ready_within_s: float = READY_S
    stop_within_s: float = STOP_S


@dataclass(frozen=True, slots=True)
class Program:
    """A running server."""

    pid: int
    port: int

    def url(self, path: str = "/") -> str:
        return f"http://{LOOPBACK}:{self.port}{path}"

    def cpu_s(self) -> float:
        """CPU seconds of it and what it started: of all its cores."""
        process = psutil.Process(self.pid)
        family = [process, *process.children(recursive=True)]
        return sum(member.cpu_times().user + member.cpu_times().system for member in family)

    def memory_bytes(self) -> int:
        return memory_bytes(self.pid)


def clean_environment() -> dict[str, str]:
    """That of this process, without settings of Tercet and of Go that would change what is run."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TERCET_", "GODEBUG", "GOGC", "GOMEMLIMIT", "NODE_OPTIONS"))
    }


@asynccontextmanager
async def running(launch: Launch, core: int | None, log_file: Path) -> AsyncIterator[Program]:
    """The program on that core, from when it answers until the end of the block."""
    with on_core(core):
        process = spawn(
            launch.command,
            environment={**clean_environment(), **launch.environment},
            log_file=log_file,
            cwd=PROJECT,
            death_signal=signal.SIGTERM,
        )
    try:
        await _answers(launch, process, log_file)
        yield Program(process.pid, launch.port)
    finally:
        await _end(process, launch.stop_within_s)


async def _answers(launch: Launch, process: subprocess.Popen[bytes], log_file: Path) -> None:
    deadline = asyncio.get_running_loop().time() + launch.ready_within_s
    reason = ""
    while asyncio.get_running_loop().time() < deadline and process.poll() is None:
        try:
            status = await _status(launch)
        except (OSError, ValueError, IndexError, TimeoutError) as error:
            reason = repr(error)
        else:
            if status == 200:
                return
            reason = f"{launch.ready_path} answers {status}"
        await asyncio.sleep(POLL_S)
    said = _end_of(log_file)
    raise BrokenRunError(f"{launch.command[0]} did not get ready ({reason}): {said}".strip())


def _end_of(log_file: Path) -> str:
    return log_file.read_text(errors="replace")[-SAID_CHARACTERS:]


async def _status(launch: Launch) -> int:
    if launch.ready_path:
        return (await get(LOOPBACK, launch.port, launch.ready_path))[0]
    _, writer = await asyncio.open_connection(LOOPBACK, launch.port)
    writer.close()
    return 200


async def ask(
    server: Program, target: str, headers: Sequence[tuple[str, str]] = ()
) -> tuple[int, dict[str, str], bytes]:
    """GET over a connection of its own: status, header fields in small letters, body."""
    async with asyncio.timeout(ASK_S):
        reader, writer = await asyncio.open_connection(LOOPBACK, server.port)
        lines = [f"{name}: {value}" for name, value in headers]
        host = f"{LOOPBACK}:{server.port}"
        writer.write(request_bytes(host, target, close=True, lines=lines))
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = (line.partition(":") for line in lines)
    return int(first.split(" ")[1]), {name.lower(): value for name, _, value in fields}, body


async def _end(process: subprocess.Popen[bytes], within_s: float) -> None:
    try:
        process.terminate()
        async with asyncio.timeout(within_s):
            while process.poll() is None:  # noqa: ASYNC110  # a process sets no asyncio.Event
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        pass
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # it has a session of its own
        process.wait()


async def output_of(command: Sequence[str], core: int | None) -> str:
    """Run a short program on a core and return what it printed; BrokenRunError when it fails."""
    with on_core(core):
        process = await asyncio.create_subprocess_exec(
            *command,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=PROJECT,
            preexec_fn=tied_to_this_process(signal.SIGKILL),
        )
    try:
        out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        said = (err or out).decode(errors="replace")[-SAID_CHARACTERS:].strip()
        raise BrokenRunError(f"{Path(command[0]).name} failed: {said}")
    return out.decode()
