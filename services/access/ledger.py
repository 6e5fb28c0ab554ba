"""What one access process holds of an allowance that all of them share, key by key."""

from __future__ import annotations

import math
from typing import Final

from services.access.buckets import HALF_LIMIT, ROUNDING_S, Rate
from services.access.routes import Route

PREFIX: Final = "tercet:allowance:"
# Of a burst: what is drawn in advance, and from how much on a key is worth drawing for.
CHUNK: Final = 0.125


class Account:
    """What one process holds of one key's allowance."""

    __slots__ = ("drawn", "full_at", "lent", "waits")

    def __init__(self) -> None:
        self.drawn = 0  # and not yet taken
        self.lent = 0  # taken without having been drawn
        self.full_at = 0.0  # of the estimate's bucket
        self.waits = False  # for the next draw


class Ledger:
    """The accounts of one rate of one class, by key; bounded as the tables of buckets.py are."""

    def __init__(self, kind: Route, policy: str, rate: Rate) -> None:
        self.prefix = f"{PREFIX}{kind.value}:{policy}:"
        self.policy = policy
        self.rate = rate
        self.chunk = max(1, math.ceil(rate.burst * CHUNK))
        self.young: dict[str, Account] = {}
        self.old: dict[str, Account] = {}
        self.set_share(1.0)

    def set_share(self, share: float) -> None:
        """The part of the limit that this process lends itself."""
        self.interval_s = self.rate.interval_s / share  # of the estimate's bucket
        self.burst_s = max(1.0, self.rate.burst * share) * self.interval_s

    def account(self, key: str) -> Account:
        account = self.young.get(key)
        if account is None:
            account = self.old.get(key) or Account()
            if len(self.young) >= HALF_LIMIT // 2:
                self.old = self.young
                self.young = {}
            self.young[key] = account
        return account

    def wait_s(self, account: Account, now: float) -> float:
        """Seconds until one can be taken, 0.0 and less: now."""
        if account.drawn:
            return 0.0
        return max(account.full_at, now) + self.interval_s - self.burst_s - now - ROUNDING_S

    def take(self, account: Account, now: float) -> bool:
        """Take one; True when it is time to draw for this key."""
        if account.drawn:
            account.drawn -= 1
            return account.drawn * 2 < self.chunk
        account.lent += 1
        account.full_at = max(account.full_at, now) + self.interval_s
        return account.lent >= self.chunk

    def wanted(self, account: Account) -> int:
        return max(0, account.lent + self.chunk - account.drawn)

    def settle(self, account: Account, lent: int, granted: int, left: int, now: float) -> None:
        """A draw is back; lent: as it was when it was asked for; left: for everybody."""
        paid = min(lent, granted)
        account.drawn += granted - paid
        # What was lent without Valkey for long is not to be paid back for as long.
        account.lent = min(account.lent - paid, self.rate.burst)
        account.waits = False
        if not left and not account.drawn:
            # Everybody together has taken all of it: what comes back is shared from here on.
            account.full_at = now + self.burst_s

    def left(self, account: Account, now: float) -> int:
        estimated = (self.burst_s - max(0.0, account.full_at - now)) / self.interval_s
        return min(self.rate.burst, account.drawn + max(0, int(estimated + ROUNDING_S)))
