"""A Redis 7 beside the stack's Valkey, for what has to work on both: Debian's redis-server."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from infra.local.addresses import LOOPBACK, free_port
from tests.faults.figures import record

START_TIMEOUT_S: Final = 10.0
NAME: Final = "the tests of the cache on Redis 7"


@contextmanager
def redis_7() -> Iterator[str]:
    """Its address. Where it is not installed, its tests fail and the figures say why."""
    program = shutil.which("redis-server")
    if program is None:
        record(15, NAME, False, version="not installed, so nothing was tested")
        pytest.fail("redis-server is not installed: apt-get install redis-server")
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    version = re.search(r"v=(\d+\.\d+\.\d+)", said.stdout)
    assert version is not None, said.stdout
    record(15, NAME, True, version=version[1])
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [program, "--port", str(port), "--bind", LOOPBACK, "--dir", folder, "--save", ""]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            _wait_until_it_listens(port)
            yield f"redis://{LOOPBACK}:{port}/0"
        finally:
            process.terminate()
            process.wait(START_TIMEOUT_S)


def _wait_until_it_listens(port: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            socket.create_connection((LOOPBACK, port), 1.0).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
