"""The names a request goes by: its request id and its W3C trace context."""

from __future__ import annotations

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


def valid_traceparent(value: bytes) -> bool:
    return TRACEPARENT.match(value) is not None and (len(value) == 55 or value[:2] != b"00")


def made_traceparent() -> bytes:
    made = b"%048x" % random.getrandbits(192)  # they have to differ, not to be secret
    return b"00-%b-%b-01" % (made[:32], made[32:])


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
