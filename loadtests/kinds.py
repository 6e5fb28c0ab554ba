"""The kinds of traffic that a scenario may name: what each one sends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from loadtests.behaviour import Batches
from loadtests.generator import Send
from loadtests.held import HeldConnections
from loadtests.recorder import Recorder
from loadtests.scenario import Traffic
from loadtests.shop import (
    Checkouts,
    Claims,
    Goods,
    Logins,
    ProductPages,
    Requests,
    Searches,
    SignUps,
    Zipf,
)
from services.keepalive import Pool

CLOSE: Final = b"connection: close\r\n"


@dataclass(frozen=True, slots=True)
class Sender:
    """What one kind of traffic in one process has to send with. payments: of buyers."""

    traffic: Traffic
    url: str
    pool: Pool
    goods: Goods
    payments: Recorder
    seed: int

    @property
    def own(self) -> bytes:
        """Header lines of each request."""
        return CLOSE if self.traffic.short else b""


def page(to: Sender) -> Send:
    return ProductPages(to.pool, to.goods, seed=to.seed, exponent=to.traffic.zipf, own=to.own)


def search(to: Sender) -> Send:
    return Searches(to.pool, to.goods, seed=to.seed, own=to.own)


def checkout(to: Sender) -> Send:
    return _buyers(Checkouts, to)


def claim(to: Sender) -> Send:
    return _buyers(Claims, to)


def _buyers(kind: type[Checkouts], to: Sender) -> Send:
    method = to.traffic.payment_method
    return kind(to.pool, to.goods, to.payments, seed=to.seed, payment_method=method, own=to.own)


def login(to: Sender) -> Send:
    return Logins(to.pool, to.goods, own=to.own)


def signup(to: Sender) -> Send:
    return SignUps(to.pool, own=to.own)


def events(to: Sender) -> Send:
    traffic = to.traffic
    return Batches(
        to.pool, to.goods, seed=to.seed, batch=traffic.batch, exponent=traffic.zipf, own=to.own
    )


def idle(to: Sender) -> Send:
    return HeldConnections(to.url, lambda: to.traffic.target, "*/*")


def live(to: Sender) -> Send:
    """Each stream listens to one product."""
    slugs = to.goods.slugs
    zipf = Zipf(len(slugs), seed=to.seed, exponent=to.traffic.zipf)
    return HeldConnections(
        to.url, lambda: f"/live?products={slugs[zipf.pick()]}", "text/event-stream"
    )


def request(to: Sender) -> Send:
    traffic = to.traffic
    return Requests(to.pool, traffic.method, traffic.target, traffic.body, own=to.own)


KINDS: Final[Mapping[str, Callable[[Sender], Send]]] = {
    kind.__name__: kind
    for kind in (page, search, checkout, claim, login, signup, events, idle, live, request)
}
