"""Limits that all access processes share: on logins, orders and behaviour events.

A request can not wait for Valkey. So a process draws allowances in advance, a chunk at a time, in
the background, and takes from what it has drawn; what that does not cover it lends itself from an
estimate, its share of the limit, and what it has lent it draws with the next chunk. Without Valkey
the estimate is all there is. A key that hardly anybody takes from is never drawn for.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import secrets
import time
from collections.abc import Mapping
from typing import Final, Literal

from redis.asyncio import Redis

from services.access.buckets import Buckets, Rate, Rates, Refusal, limit_headers, rates_of
from services.access.client_address import Networks
from services.access.ledger import Account, Ledger
from services.access.routes import Route
from services.settings import AccessSettings
from services.tasks import end_tasks
from services.telemetry import logger
from services.valkey import LOST, close, connect

log = logger(__name__)

SHARED: Final = frozenset(("login", "checkout", "beacon"))
EVERY_S: Final = 0.1  # between two draws for one key
KEYS_A_ROUND: Final = 128  # 2 ms of this process; the keys that are left out come first next time
TIMEOUT_S: Final = 0.5  # nobody waits for it
LOST_PAUSE_S: Final = 1.0  # before Valkey is asked again when it did not answer
ALIVE_S: Final = 5  # a process that has not drawn for so long does not count
ALIVE_KEY: Final = "tercet:access:alive"

# A bucket is the moment at which it is full again (GCRA), as in buckets.py, on Valkey's clock.
DRAW: Final = """
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
local interval, burst, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local full_at = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now)
local left = math.max(0, math.floor(burst - (full_at - now) / interval + 0.000001))
local granted = math.min(wanted, left)
if granted > 0 then
  full_at = full_at + granted * interval
  local life = math.ceil((full_at - now) * 1000)
  redis.call('SET', KEYS[1], string.format('%.6f', full_at), 'PX', life)
end
return {granted, left - granted}
"""
# How many processes there are: each says that it is, and those that fell silent do not count.
COUNT: Final = """
local now = tonumber(redis.call('TIME')[1])
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[2]))
redis.call('EXPIRE', KEYS[1], ARGV[2])
return redis.call('ZCARD', KEYS[1])
"""


class Allowances:
    """Takes for every class of traffic: of shared classes from here, of others from buckets."""

    def __init__(
        self,
        rates: Mapping[Route, Rates],
        valkey: Redis | None,
        *,
        processes: int = 1,
        exempt: Networks | None = None,
    ) -> None:
        """processes: of access, as far as is known before Valkey has said how many there are."""
        shared = {kind: each for kind, each in rates.items() if kind.value in SHARED}
        self.buckets = Buckets(
            {kind: each for kind, each in rates.items() if kind not in shared}, exempt=exempt
        )
        self.limited = frozenset(rates)  # the classes for which take() has anything to do
        self.refused_total = self.drawn_total = self.lost_total = 0
        self.processes = processes
        self._ledgers = {
            kind: (_ledger(kind, "address", each.address), _ledger(kind, "customer", each.customer))
            for kind, each in shared.items()
        }
        self._valkey = valkey
        self._draw = None if valkey is None else valkey.register_script(DRAW)
        self._count = None if valkey is None else valkey.register_script(COUNT)
        self._name = secrets.token_hex(8)
        self._waiting: dict[tuple[Ledger, str], Account] = {}
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._set_share(processes)

    @classmethod
    def of(cls, settings: AccessSettings) -> Allowances:
        """As the settings say; `start` has it draw."""
        return cls(
            rates_of(settings.customer_rates, settings.address_rates),
            connect(settings, timeout_s=TIMEOUT_S),
            processes=settings.access_workers,
            exempt=Networks(f"{settings.trusted_proxies},{settings.unlimited_networks}"),
        )

    def start(self) -> None:
        """Draw in the background from now on; called within the event loop."""
        self._task = asyncio.create_task(self.run())

    async def aclose(self) -> None:
        if self._task is not None:
            await end_tasks(self._task)
        if self._valkey is not None:
            await close(self._valkey)

    def take(
        self, kind: Route, address: str, customer_id: str | None, now: float
    ) -> Refusal | None:
        """Take one of each limit that counts, or of none. Never waits."""
        ledgers = self._ledgers.get(kind)
        if ledgers is None:
            refusal = self.buckets.take(kind, address, customer_id, now)
            self.refused_total += refusal is not None
            return refusal
        by_address, by_customer = ledgers
        group = self.buckets.group(address) if by_address is not None else ""
        address_account = customer_account = None
        if by_address is not None and group:
            address_account = by_address.account(group)
            if (wait_s := by_address.wait_s(address_account, now)) > 0:
                return self._refusal(by_address, group, address_account, wait_s)
        if by_customer is not None and customer_id is not None:
            customer_account = by_customer.account(customer_id)
            if (wait_s := by_customer.wait_s(customer_account, now)) > 0:
                return self._refusal(by_customer, customer_id, customer_account, wait_s)
            if by_customer.take(customer_account, now):
                self._want(by_customer, customer_id, customer_account)
        if (
            by_address is not None
            and address_account is not None
            and by_address.take(address_account, now)
        ):
            self._want(by_address, group, address_account)
        return None

    def shares(self, kind: Route) -> bool:
        """Whether the limits of this class are those of all processes together."""
        return kind in self._ledgers

    def headers(
        self, kind: Route, address: str, customer_id: str | None, now: float
    ) -> dict[str, str]:
        """RateLimit-Policy and RateLimit of an answer; none for a class that is not shared."""
        by_address, by_customer = self._ledgers.get(kind, (None, None))
        limits = {}
        keys = ((by_customer, customer_id), (by_address, self.buckets.group(address)))
        for ledger, key in keys:
            if ledger is not None and key:
                left = ledger.left(ledger.account(key), now)
                full_in_s = (ledger.rate.burst - left) * ledger.rate.interval_s
                limits[ledger.policy] = (ledger.rate, left, math.ceil(full_in_s))
        return limit_headers(limits) if limits else {}

    async def run(self) -> None:
        """Draw, every tenth of a second in which somebody takes. Ends when it is cancelled."""
        lost = False
        while self._valkey is not None:
            await self._wanted.wait()
            await asyncio.sleep(EVERY_S)
            try:
                await self.draw()
            except (*LOST, TimeoutError) as error:
                self.lost_total += 1
                if not lost:  # said once, not at each try
                    log.warning("allowances are estimated without Valkey", error=repr(error))
                lost = True
                await asyncio.sleep(LOST_PAUSE_S)
            else:
                lost = False

    async def draw(self) -> None:
        """One round: for the keys that wait, and how many processes there are."""
        if self._valkey is None or self._draw is None or self._count is None:
            return
        round_ = list(itertools.islice(self._waiting.items(), KEYS_A_ROUND))
        async with self._valkey.pipeline(transaction=False) as pipe:
            await self._count([ALIVE_KEY], [self._name, ALIVE_S], client=pipe)
            asked = []
            for (ledger, key), account in round_:
                asked.append(account.lent)
                rate, wanted = ledger.rate, ledger.wanted(account)
                arguments: list[str | int] = [f"{rate.interval_s:.9f}", rate.burst, wanted]
                await self._draw([ledger.prefix + key], arguments, client=pipe)
            processes, *grants = await pipe.execute()
        self._set_share(int(processes))
        now = time.monotonic()
        for ((ledger, key), account), lent, (granted, left) in zip(
            round_, asked, grants, strict=True
        ):
            del self._waiting[(ledger, key)]
            self.drawn_total += granted
            ledger.settle(account, lent, granted, left, now)
        if not self._waiting:
            self._wanted.clear()

    def _want(self, ledger: Ledger, key: str, account: Account) -> None:
        if not account.waits and self._valkey is not None:
            account.waits = True
            self._waiting[(ledger, key)] = account
            self._wanted.set()

    def _refusal(self, ledger: Ledger, key: str, account: Account, wait_s: float) -> Refusal:
        self.refused_total += 1
        self._want(ledger, key, account)
        return Refusal(ledger.policy, ledger.rate, max(1, math.ceil(wait_s)))

    def _set_share(self, processes: int) -> None:
        self.processes = max(1, processes)
        for ledger in itertools.chain.from_iterable(self._ledgers.values()):
            if ledger is not None:
                ledger.set_share(1 / self.processes)


def _ledger(
    kind: Route, policy: Literal["address", "customer"], rate: Rate | None
) -> Ledger | None:
    return None if rate is None else Ledger(kind, policy, rate)
