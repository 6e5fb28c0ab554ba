"""What still runs of a stack, found without its own notes: by command lines and folders."""

from __future__ import annotations

import time
from pathlib import Path

import psutil


def processes_of(data_dir: Path) -> list[psutil.Process]:
    """Every process that names this data folder or works in it."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            words = [*process.cmdline(), process.cwd()]
        except psutil.Error:
            continue
        if any(str(data_dir) in word for word in words):
            found.append(process)
    return found


def seconds_until_nothing_is_left(data_dir: Path, limit_s: float) -> float:
    """How long it takes until no process of the stack is left; fails beyond the limit."""
    began = time.monotonic()
    while left := processes_of(data_dir):
        if time.monotonic() - began > limit_s:
            raise AssertionError(f"still there after {limit_s} s: {left}")
        time.sleep(0.02)
    return time.monotonic() - began
