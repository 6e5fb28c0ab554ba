"""A log of events of a test's own: valkey-server with the options of the stack's, to be killed."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import redis
from redis.exceptions import RedisError

from infra.local.addresses import LOOPBACK, free_port
from infra.local.processes import tied_to_this_process
from infra.local.servers import INFRA, valkey_server

START_TIMEOUT_S: Final = 20.0


class EventsValkey:
    """memory: its maxmemory."""

    def __init__(self, folder: Path, *, memory: str = "64mb") -> None:
        self.port = free_port()
        self.url = f"redis://{LOOPBACK}:{self.port}/0"
        self._command = [
            str(valkey_server()),
            str(INFRA / "valkey" / "events.conf"),
            *("--bind", LOOPBACK, "--port", str(self.port)),
            *("--dir", str(folder), "--maxmemory", memory),
        ]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            self._command,
            stdout=subprocess.DEVNULL,
            preexec_fn=tied_to_this_process(signal.SIGKILL),  # noqa: PLW1509  # it makes one call
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        with redis.Redis(port=self.port, socket_timeout=1.0) as client:
            while True:
                try:
                    client.ping()
                except RedisError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.02)
                else:
                    return

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@contextmanager
def events_valkey(folder: Path, *, memory: str = "64mb") -> Iterator[EventsValkey]:
    """One that runs at the beginning, and is gone at the end."""
    folder.mkdir(exist_ok=True)
    valkey = EventsValkey(folder, memory=memory)
    valkey.start()
    try:
        yield valkey
    finally:
        valkey.kill()
