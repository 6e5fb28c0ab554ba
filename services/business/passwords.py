"""Passwords: which are allowed, and their hashes, made in few threads of their own.

Argon2id with the parameters that OWASP's Password Storage Cheat Sheet names first for machines of
little memory. A hash takes a core for tens of milliseconds: what does not fit is refused at once,
so that a crowd of logins takes neither the loop nor the cores from those who pay.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.low_level import Type

from services.problems import FieldError, InvalidBody, Overloaded

T = TypeVar("T")

LENGTH_MIN: Final = 8  # characters; ASVS V6.2.1
SIZE_MAX_BYTES: Final = 1024  # far above the 64 that have to be allowed; Argon2 cuts nothing off
MEMORY_KIB: Final = 19_456
PASSES: Final = 2
LANES: Final = 1
# Each waits as long as those before it take: 16 of 50 ms are 0.8 s, and who logs in waits no
# longer gladly.
WAITING_MAX: Final = 16  # for each thread
COMMON: Final = Path(__file__).with_name("common_passwords.txt")

HASHER: Final = PasswordHasher(
    time_cost=PASSES, memory_cost=MEMORY_KIB, parallelism=LANES, type=Type.ID
)


def _read_common() -> frozenset[str]:
    lines = COMMON.read_text().splitlines()
    return frozenset(line for line in lines if not line.startswith("#"))


_common: Final = _read_common()


def in_one_form(password: str) -> bytes:
    """NFC: an é is one character on one keyboard, and two on another."""
    return unicodedata.normalize("NFC", password).encode()


def check_password(password: str, field: str) -> None:
    """Refuse what is too short, too long or too common; there is no other rule (ASVS V6.2)."""
    form = in_one_form(password)
    detail = ""
    if len(form.decode()) < LENGTH_MIN:
        detail = f"must have at least {LENGTH_MIN} characters"
    elif len(form) > SIZE_MAX_BYTES:
        detail = f"must have at most {SIZE_MAX_BYTES} bytes"
    elif form.decode().lower() in _common:
        detail = "is one of the most common passwords"
    if detail:
        error: FieldError = {"field": field, "detail": detail}
        raise InvalidBody(errors=[error])


class Passwords:
    """Hashes and compares, in threads of its own.

    Whoever needs a hash takes a place first, before anything is done for it: what does not fit
    costs nothing. refused_total: what did not fit. hashes_total: hashes made or compared.
    """

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads
        self.refused_total = 0
        self.hashes_total = 0
        self.in_hand = 0
        # Of the same priority as the loop: a thread that waits for a core while it has the
        # interpreter's lock, in the moment before and after a hash, holds up the loop as long.
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="password")
        self._nobodys = ""  # made with the first one that is needed
        self._making_nobodys = threading.Lock()

    @contextmanager
    def place(self) -> Iterator[None]:
        """Round all that a caller does for its hashes, one after another. Raises Overloaded."""
        if self.in_hand >= self.threads * (1 + WAITING_MAX):
            self.refused_total += 1
            raise Overloaded("Too many log in at the moment.", retry_after_s=1)
        self.in_hand += 1
        try:
            yield
        finally:
            self.in_hand -= 1

    async def hash(self, password: str) -> str:
        """A new hash with the parameters of today; its caller has a place."""
        return await self._run(lambda: HASHER.hash(in_one_form(password)))

    async def matches(self, password_hash: str | None, password: str) -> bool:
        """Whether it is the password of this hash; None takes as long and is False.

        Its caller has a place.
        """
        return await self._run(lambda: self._compare(password_hash, in_one_form(password)))

    def is_old(self, password_hash: str) -> bool:
        """Whether it was made with other parameters than those of today."""
        return HASHER.check_needs_rehash(password_hash)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _compare(self, password_hash: str | None, password: bytes) -> bool:
        nobodys = self._hash_of_nobody()  # in any case: the first one takes time
        try:
            return HASHER.verify(password_hash or nobodys, password) and password_hash is not None
        except (VerificationError, InvalidHashError):
            return False

    def _hash_of_nobody(self) -> str:
        with self._making_nobodys:
            if not self._nobodys:
                self._nobodys = HASHER.hash(secrets.token_bytes(32))
            return self._nobodys

    async def _run(self, work: Callable[[], T]) -> T:
        # Whoever leaves takes its work along, unless a thread is at it.
        found = await asyncio.wrap_future(self._pool.submit(work))
        self.hashes_total += 1
        return found
