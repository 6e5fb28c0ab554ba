"""The process that hashes passwords, one after another: a request a line, an answer a line.

Business starts it by its path and imports its parameters. It knows nothing but passwords, and
ends when its input does, which it does when business ends, however that comes about.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerifyMismatchError
from argon2.low_level import ARGON2_VERSION, Type

MEMORY_KIB: Final = 19_456
PASSES: Final = 2
LANES: Final = 1
HASHER: Final = PasswordHasher(
    time_cost=PASSES, memory_cost=MEMORY_KIB, parallelism=LANES, type=Type.ID
)

# A tenth of what others have on a core that all of them want; all of one that nobody else does.
NICE: Final = 10


def _nobodys() -> str:
    """What no password is the one of, and what takes as long to compare as a hash of today."""
    salt, digest = (
        base64.b64encode(secrets.token_bytes(size)).rstrip(b"=").decode()
        for size in (HASHER.salt_len, HASHER.hash_len)
    )
    return f"$argon2id$v={ARGON2_VERSION}$m={MEMORY_KIB},t={PASSES},p={LANES}${salt}${digest}"


NOBODYS: Final = _nobodys()


def matches(password_hash: str | None, password: bytes) -> bool:
    """Whether it is the password of this hash; None takes as long and is False."""
    try:
        HASHER.verify(password_hash or NOBODYS, password)
    except (VerifyMismatchError, InvalidHashError):
        return False
    return password_hash is not None


def give_way() -> None:
    """Have the kernel let everybody else go first.

    Where it shares out time between sessions first (autogroup, sched(7)), niceness counts within a
    session only, and that of the session is set here; the one who starts this gives it its own.
    """
    os.nice(NICE)
    with suppress(OSError):  # no Linux, or one without autogroup
        Path("/proc/self/autogroup").write_text(str(NICE))


def main() -> None:
    """Serve the one who started it; what is wrong with this process ends it."""
    give_way()
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        password = asked["password"].encode()
        found = matches(asked["hash"], password) if "hash" in asked else HASHER.hash(password)
        sys.stdout.buffer.write(json.dumps(found).encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
