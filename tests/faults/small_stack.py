"""A small stack for testing the tools: the real supervisor with parts that only tell they live.

python -m tests.faults.small_stack DATA_DIR runs until SIGTERM.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from infra.local.addresses import LOOPBACK, free_port, get
from infra.local.folder import DataFolder
from infra.local.parts import NotReadyError, Part
from infra.local.processes import started_at
from infra.local.supervisor import Supervisor

# A server that answers every GET with 200.
ANSWER: Final = """
import http.server, sys
class Live(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Live).serve_forever()
"""
# A process that writes a growing number into the file named first, as its child does into the
# second. The child ends when its parent is gone.
BEAT: Final = """
import os, pathlib, subprocess, sys, time
parent = os.getppid()
if len(sys.argv) > 2:
    subprocess.Popen([sys.executable, "-c", os.environ["BEAT"], sys.argv[2]])
count = 0
while len(sys.argv) > 2 or os.getppid() == parent:
    count += 1
    pathlib.Path(sys.argv[1]).write_text(str(count))
    time.sleep(0.01)
"""


@dataclass
class Answering(Part):
    """A part with an address."""

    port: int = field(default_factory=free_port, kw_only=True)

    def __post_init__(self) -> None:
        self.address = f"{LOOPBACK}:{self.port}"

    def command(self) -> Sequence[str]:
        return [sys.executable, "-c", ANSWER, str(self.port)]

    def environment(self) -> Mapping[str, str]:
        return os.environ

    async def check(self) -> str:
        status, _ = await get(LOOPBACK, self.port, "/live")
        return str(status)


@dataclass
class Beating(Part):
    """A part without an address, and with a child."""

    folder: Path = field(kw_only=True)

    def command(self) -> Sequence[str]:
        files = [str(self.folder / name) for name in ("parent", "child")]
        return [sys.executable, "-c", BEAT, *files]

    def environment(self) -> Mapping[str, str]:
        return {**os.environ, "BEAT": BEAT}

    async def prepare(self) -> None:
        for name in ("parent", "child"):
            (self.folder / name).unlink(missing_ok=True)

    async def check(self) -> str:
        if not (self.folder / "child").exists():
            raise NotReadyError("the child does not beat yet")
        return ""


async def run(data_dir: Path) -> None:
    folder = DataFolder.at(data_dir)
    folder.create()
    lock = folder.lock()
    parts: list[Part] = [Answering("provider"), Beating("worker-beat", folder=folder.run)]

    def write_state(_: Part | None) -> None:
        me = {"pid": os.getpid(), "created": started_at(os.getpid())}
        state = {"phase": "ready", "supervisor": me, "guard": me}
        folder.write_state({**state, "parts": [part.as_dict() for part in parts]})

    supervisor = Supervisor(parts, log_folder=folder.log, cwd=folder.root, changed=write_state)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await supervisor.start()
    print("ready", flush=True)  # noqa: T201
    await stopped.wait()
    await supervisor.stop()
    os.close(lock)


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1])))
