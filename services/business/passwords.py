"""Passwords: which are allowed, and their hashes, made in few processes of their own.

Argon2id with the parameters that OWASP's Password Storage Cheat Sheet names first for machines of
little memory. A hash takes a core for tens of milliseconds: what does not fit is refused at once,
and the processes give way, so that a crowd of logins takes neither the loop nor the cores from
those who pay.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from services.business.hasher import HASHER
from services.business.hashers import Hashers
from services.problems import FieldError, InvalidBody, Overloaded

LENGTH_MIN: Final = 8  # characters; ASVS V6.2.1
SIZE_MAX_BYTES: Final = 1024  # far above the 64 that have to be allowed; Argon2 cuts nothing off
# Each waits as long as those before it take: 16 of 50 ms are 0.8 s, and who logs in waits no
# longer gladly.
WAITING_MAX: Final = 16  # for each process
COMMON: Final = Path(__file__).with_name("common_passwords.txt")


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
    """Hashes and compares, in processes of its own.

    Whoever needs a hash takes a place first, before anything is done for it: what does not fit
    costs nothing. refused_total: what did not fit. hashes_total: hashes made or compared.
    """

    def __init__(self, processes: int = 1) -> None:
        self.processes = processes
        self.refused_total = 0
        self.hashes_total = 0
        self.in_hand = 0
        self.hashers = Hashers(processes)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Round all that a caller does for its hashes, one after another. Raises Overloaded."""
        if self.in_hand >= self.processes * (1 + WAITING_MAX):
            self.refused_total += 1
            raise Overloaded("Too many log in at the moment.", retry_after_s=1)
        self.in_hand += 1
        try:
            yield
        finally:
            self.in_hand -= 1

    async def hash(self, password: str) -> str:
        """A new hash with the parameters of today; its caller has a place. Raises Unavailable."""
        made = await self.hashers.ask({"password": in_one_form(password).decode()})
        self.hashes_total += 1
        return str(made)

    async def matches(self, password_hash: str | None, password: str) -> bool:
        """Whether it is the password of this hash; None takes as long and is False.

        Its caller has a place. Raises Unavailable.
        """
        asked = {"password": in_one_form(password).decode(), "hash": password_hash}
        found = await self.hashers.ask(asked)
        self.hashes_total += 1
        return bool(found)

    def is_old(self, password_hash: str) -> bool:
        """Whether it was made with other parameters than those of today."""
        return HASHER.check_needs_rehash(password_hash)

    async def aclose(self) -> None:
        """End the processes; whoever still waits for one goes without an answer."""
        await self.hashers.aclose()
