"""The names a request goes by: its request id and its W3C trace context."""

from __future__ import annotations

import os
import random
import re
from typing import Final

REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")
# https://www.w3.org/TR/trace-context/#traceparent-header: ff is no version, all zeros are no id,
# and only a version after 00 may be longer.
TRACEPARENT: Final = re.compile(
    rb"(?:00|(?!ff)[0-9a-f]{2}(?=.{53}(?:-|$)))"
    rb"-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)
MADE_AT_ONCE: Final = 128  # 6 KB, and a call of the generator for each would cost as much as all


def valid_traceparent(value: bytes) -> bool:
    return TRACEPARENT.match(value) is not None and (len(value) == 55 or value[:2] != b"00")


class _Made:
    """Random digits for many names at once: they have to differ, not to be secret."""

    def __init__(self) -> None:
        self._digits = b""
        self._at = 0
        os.register_at_fork(after_in_child=self._forget)  # or all children would give the same

    def _forget(self) -> None:
        self._digits = b""
        self._at = 0

    def traceparent(self) -> bytes:
        at = self._at
        digits = self._digits
        if at == len(digits):
            made = random.randbytes(24 * MADE_AT_ONCE)  # noqa: S311 - no secret
            self._digits = digits = made.hex().encode()
            at = 0
        self._at = at + 48
        return b"00-%b-%b-01" % (digits[at : at + 32], digits[at + 32 : at + 48])


made_traceparent: Final = _Made().traceparent


def names_of(headers: list[tuple[bytes, bytes]]) -> tuple[bytes, bytes, bool]:
    """Request id, traceparent, and whether the traceparent is the client's.

    A name that the client did not give, gave twice or gave malformed is made. A made request id
    is the trace's id, so that one leads to the other.
    """
    ids = [value for name, value in headers if name == b"x-request-id"]
    parents = [value for name, value in headers if name == b"traceparent"]
    valid = len(parents) == 1 and valid_traceparent(parents[0])
    traceparent = parents[0][:55] if valid else made_traceparent()
    if len(ids) == 1 and REQUEST_ID.fullmatch(ids[0]) is not None:
        return ids[0], traceparent, valid
    return traceparent[3:35], traceparent, valid
