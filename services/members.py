"""Which of several servers are used, and how much: what failed is left out, and returns slowly."""

from __future__ import annotations

import math
import ssl
from collections.abc import Iterable
from typing import Final

from services.address import Address

# A tier next door confirms within a millisecond; three repetitions of a lost packet take 0.7 s.
UNACKED_S: Final = 1.0
# One failure is chance; three in a row, with no answer between them, are not.
FAILURES: Final = 3
EJECTED_S: Final = 1.0  # the first time; then twice as long each time, up to the longest
EJECTED_LONGEST_S: Final = 30.0
FORGIVEN_S: Final = 60.0  # after so long without another one an ejection counts as the first
RAMP_S: Final = 5.0  # from the first share after a return to a full one: caches are cold
RAMP_FROM: Final = 0.1


class Member(Address):
    """One server behind a Balance, and how it stands."""

    def __init__(self, host: str, port: int, *, tls: ssl.SSLContext | None, ip: str) -> None:
        super().__init__(host, port, tls=tls, ip=ip, unacked_s=UNACKED_S)
        self.ejected = False
        self.failed_total = self.ejected_total = 0
        self._ejections = 0  # in a row
        self._ejected_until = 0.0
        self._used_since = -math.inf
        self._seen_total = 0
        self._silent_since = math.inf

    def is_due(self, now: float) -> bool:
        """Whether it is out and has been for long enough."""
        return self.ejected and now >= self._ejected_until

    def is_ramping(self, now: float) -> bool:
        return now < self._used_since + RAMP_S

    def share(self, now: float) -> float:
        """What it is given of what it would be given otherwise, from RAMP_FROM to 1."""
        return min(1.0, max(RAMP_FROM, (now - self._used_since) / RAMP_S))

    def silent_s(self, now: float, in_flight: int) -> float:
        """How long there has been something in flight and no answer; to be asked often."""
        if in_flight == 0 or self.answered_total != self._seen_total or self.ejected:
            self.heard(now)
        return max(0.0, now - self._silent_since)

    def heard(self, now: float) -> None:
        """It has given a sign of life: silence counts from now."""
        self._seen_total = self.answered_total
        self._silent_since = now

    def eject(self, now: float) -> None:
        forgiven = now - self._used_since >= FORGIVEN_S
        self._ejections = 1 if forgiven else self._ejections + 1
        out_s = min(EJECTED_S * 2.0 ** (self._ejections - 1), EJECTED_LONGEST_S)
        self._ejected_until = now + out_s
        self.ejected = True
        self.ejected_total += 1

    def admit(self, now: float) -> None:
        """Use it from now on, little at first."""
        self.ejected = False
        self.failures = 0
        self._used_since = now


class Members:
    """The servers that there are, and those that are used: never fewer than half of them."""

    def __init__(self, members: Iterable[Member] = ()) -> None:
        self.all: tuple[Member, ...] = tuple(members)
        self.used = self.all  # a new tuple whenever it changes

    def replace(self, members: Iterable[Member]) -> None:
        self.all = tuple(members)
        self._choose()

    def failed(self, member: Member, now: float) -> bool:
        """It did not answer, or as one that is sick; true: that was too often, it is ejected."""
        member.failed_total += 1
        member.failures += 1
        return member.failures >= FAILURES and self.eject(member, now)

    def eject(self, member: Member, now: float) -> bool:
        """Use it no more for a while; false when too few would be left, or it is out already."""
        out = sum(each.ejected for each in self.all)
        if member.ejected or member not in self.all or out + 1 > len(self.all) // 2:
            return False
        member.eject(now)
        self._choose()
        return True

    def readmit(self, member: Member, now: float) -> None:
        """It is ready: use it again, little at first."""
        member.admit(now)
        self._choose()

    def _choose(self) -> None:
        self.used = tuple(each for each in self.all if not each.ejected) or self.all
