"""Token buckets of one process by customer and by address, and how many connections there may be.

A bucket is one number: the moment at which it will be full again (GCRA, ITU-T I.371). There is
no timer and no sweep: a table has a younger and an older half, and when the younger one is full
the older one goes. A bucket that goes is one that nobody took from while as many others came.
"""

from __future__ import annotations

import math
import resource
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from services.access.client_address import Networks, group_of
from services.access.routes import Route
from services.problems import TooManyRequests

HALF_LIMIT: Final = 65_536  # entries of half a table; about 120 bytes each, 16 MB a full table
ROUNDING_S: Final = 1e-6  # what floating point may lose
FILES_LIMIT: Final = 1_048_576  # fs.nr_open as kernels have it: more can not be asked for


@dataclass(frozen=True, slots=True)
class Rate:
    """So many at once, and so many a second in the long run."""

    per_s: float
    burst: int

    @property
    def interval_s(self) -> float:
        return 1 / self.per_s

    @property
    def window_s(self) -> int:
        """Seconds in which an empty bucket is full again."""
        return max(1, math.ceil(self.burst / self.per_s))


@dataclass(frozen=True, slots=True)
class Rates:
    """What one class of traffic allows; None: no limit."""

    customer: Rate | None = None
    address: Rate | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Which limit is used up, and when there is something in it again."""

    policy: str  # customer or address
    rate: Rate
    retry_after_s: int

    def problem(self) -> TooManyRequests:
        return TooManyRequests(
            f"The limit by {self.policy} is used up.",
            retry_after_s=self.retry_after_s,
            headers=limit_headers({self.policy: (self.rate, 0, self.retry_after_s)}),
        )


def limit_headers(limits: Mapping[str, tuple[Rate, int, int]]) -> dict[str, str]:
    """RateLimit-Policy of all and RateLimit of the one of which the least is left.

    limits: by name of the policy its rate, how many are left, seconds until it is whole again or,
    when nothing is left, those of Retry-After (draft-ietf-httpapi-ratelimit-headers-10).
    """
    policies = [
        f'"{name}";q={rate.burst};w={rate.window_s}' for name, (rate, _, _) in limits.items()
    ]
    name, (_, left, reset_s) = min(limits.items(), key=lambda item: item[1][1])
    return {
        "ratelimit-policy": ", ".join(policies),
        "ratelimit": f'"{name}";r={left};t={reset_s}',
    }


def rates_of(customer_rates: str, address_rates: str) -> dict[Route, Rates]:
    """Rates from the settings: "checkout=10/50,other=5/20" is so many a second / at once."""
    customer, address = _parsed(customer_rates), _parsed(address_rates)
    return {
        kind: Rates(customer.get(kind.value), address.get(kind.value))
        for kind in Route
        if kind.value in customer or kind.value in address
    }


def _parsed(rates: str) -> dict[str, Rate]:
    found = {}
    for part in filter(None, rates.replace(" ", "").split(",")):
        name, _, rate = part.partition("=")
        per_s, _, burst = rate.partition("/")
        found[name] = Rate(float(per_s), int(burst))
    return found


class Table:
    """The buckets of one rate, by key."""

    __slots__ = ("burst_s", "interval_s", "old", "rate", "young")

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self.interval_s = rate.interval_s
        self.burst_s = rate.burst * rate.interval_s + ROUNDING_S
        self.young: dict[str, float] = {}  # key: when its bucket is full again
        self.old: dict[str, float] = {}

    def full_at(self, key: str) -> float:
        return self.young.get(key) or self.old.get(key, 0.0)

    def fill(self, key: str, full_at: float) -> None:
        young = self.young
        if len(young) >= HALF_LIMIT:
            self.old = young
            self.young = young = {}
        young[key] = full_at


class Buckets:
    """Buckets of every class of traffic."""

    def __init__(self, rates: Mapping[Route, Rates], *, exempt: Networks | None = None) -> None:
        """exempt: addresses that are nobody's in particular, such as this machine's own."""
        self.refused_total = 0
        self._tables = {
            kind: (
                None if each.address is None else Table(each.address),
                None if each.customer is None else Table(each.customer),
            )
            for kind, each in rates.items()
        }
        self._exempt = Networks() if exempt is None else exempt
        self._groups: dict[str, str] = {}  # addresses by what counts as one client; "" is exempt

    def take(
        self, kind: Route, address: str, customer_id: str | None, now: float
    ) -> Refusal | None:
        """Take one of each bucket that counts, or of none. Never waits."""
        tables = self._tables.get(kind)
        if tables is None:
            return None
        by_address, by_customer = tables
        group = ""
        address_at = 0.0
        if by_address is not None:
            known = self._groups.get(address)
            group = self.group(address) if known is None else known
            if group:
                address_at = max(by_address.full_at(group), now) + by_address.interval_s
                if address_at - now > by_address.burst_s:
                    return self._refusal("address", by_address, group, address_at - now)
        if by_customer is not None and customer_id is not None:
            customer_at = max(by_customer.full_at(customer_id), now) + by_customer.interval_s
            if customer_at - now > by_customer.burst_s:
                return self._refusal("customer", by_customer, customer_id, customer_at - now)
            by_customer.fill(customer_id, customer_at)
        if group and by_address is not None:
            by_address.fill(group, address_at)
        return None

    def group(self, address: str) -> str:
        """What counts as one client with this address; "" for one that is exempt."""
        group = self._groups.get(address)
        if group is not None:
            return group
        group = "" if address in self._exempt else group_of(address)
        if len(self._groups) >= HALF_LIMIT:
            self._groups.clear()
        self._groups[address] = group
        return group

    def _refusal(self, policy: str, table: Table, key: str, full_in_s: float) -> Refusal:
        self.refused_total += 1
        table.fill(key, table.full_at(key))  # or who is always refused would be forgotten
        return Refusal(
            policy, table.rate, max(1, math.ceil(full_in_s - table.burst_s - ROUNDING_S))
        )


class Connections:
    """How many connections there are, in all and by address (IPv6 by /64)."""

    def __init__(
        self, *, limit: int, limit_by_address: int, exempt: Networks | None = None
    ) -> None:
        """limit: 0 is half of the files this process may open: the rest is for its other needs.

        exempt: addresses that count in all only: trusted proxies, and this machine's own.
        """
        self.open = 0
        self.refused_total = 0  # for want of room in all
        self.refused_by_address_total = 0
        self.limit = limit or _half_of_files()
        self._limit_by_address = limit_by_address
        self._exempt = Networks() if exempt is None else exempt
        self._exempts = bool(self._exempt)
        self._open_by_group: dict[str, int] = {}

    def opened(self, address: str) -> bool:
        """Whether there is room for it. False: close it, and do not report it as closed."""
        if self.open >= self.limit:
            self.refused_total += 1
            return False
        if not self._exempts or address not in self._exempt:
            group = group_of(address)
            count = self._open_by_group.get(group, 0)
            if count >= self._limit_by_address:
                self.refused_by_address_total += 1
                return False
            self._open_by_group[group] = count + 1
        self.open += 1
        return True

    def closed(self, address: str) -> None:
        """A connection for which there was room has ended."""
        self.open -= 1
        if not self._exempts or address not in self._exempt:
            group = group_of(address)
            count = self._open_by_group[group] - 1
            if count:
                self._open_by_group[group] = count
            else:
                del self._open_by_group[group]


def _half_of_files() -> int:
    # The hard limit: the process raises its own to that when it starts to listen.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (FILES_LIMIT if hard == resource.RLIM_INFINITY else min(hard, FILES_LIMIT)) // 2
