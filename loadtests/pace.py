"""Waiting for a moment more exactly than an event loop's own timers, which count milliseconds."""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import time
from typing import Final

# linux/time.h, timerfd.h; Python has them from 3.13 on.
CLOCK_MONOTONIC: Final = 1
TFD_NONBLOCK: Final = os.O_NONBLOCK
# Shorter waits than this cost more than they are worth: arming and waking take about 30 us.
NEAR_S: Final = 0.00005


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Pace:
    """One waiter of an event loop. On Linux it is woken by a timer of the kernel's own.

    Elsewhere waits end up to a millisecond late, which counts into the latency: never out of it.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._timer = _timerfd() if sys.platform == "linux" else None
        self._spec = _Itimerspec()
        if self._timer is not None:
            self._loop.add_reader(self._timer, self._wake)

    def close(self) -> None:
        if self._timer is not None:
            self._loop.remove_reader(self._timer)
            os.close(self._timer)
            self._timer = None

    async def until(self, moment: float) -> bool:
        """Wait until time.monotonic() reaches the moment; False if that was so already."""
        wait_s = moment - time.monotonic()
        if wait_s < NEAR_S:
            return False
        if self._timer is None:
            await asyncio.sleep(wait_s)
            return True
        self._spec.value.seconds = int(wait_s)
        self._spec.value.nanoseconds = int(wait_s % 1 * 1e9)
        self._waiter = self._loop.create_future()
        _libc.timerfd_settime(self._timer, 0, ctypes.byref(self._spec), None)
        await self._waiter
        return True

    def _wake(self) -> None:
        if self._timer is not None:
            os.read(self._timer, 8)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


_libc = ctypes.CDLL(None, use_errno=True)


def _timerfd() -> int:
    descriptor = int(_libc.timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | os.O_CLOEXEC))
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "timerfd_create")
    return descriptor
