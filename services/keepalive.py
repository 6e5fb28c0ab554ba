"""A keep-alive HTTP/1.1 client pool for one address: bounded connections, bounded waiting."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from typing import Final

from services.address import Address, origin
from services.client import Client
from services.connection import Connection
from services.connections import Connections
from services.deadline import Deadline
from services.exchange import (
    AnswerLimits,
    AnswerTimedOut,
    BadAnswer,
    BodyMismatch,
    Caller,
    ConnectFailed,
    ConnectionLost,
    ConnectTimedOut,
    ExchangeError,
    Headers,
    NotSent,
    Patience,
    PoolClosed,
    PoolTimedOut,
    Repeatable,
    Response,
    SendingLost,
    SendTimedOut,
    Unknown,
    UnsafeRequest,
)
from services.request import IDEMPOTENT
from services.stream import Stream

__all__ = [
    "AnswerLimits",
    "AnswerTimedOut",
    "BadAnswer",
    "BodyMismatch",
    "Caller",
    "ConnectFailed",
    "ConnectTimedOut",
    "ConnectionLost",
    "ExchangeError",
    "Headers",
    "NotSent",
    "Patience",
    "Pool",
    "PoolClosed",
    "PoolTimedOut",
    "Repeatable",
    "Response",
    "SendTimedOut",
    "SendingLost",
    "Stream",
    "Unknown",
    "UnsafeRequest",
]

IDLE_S: Final = 4.0  # below the 5 s after which uvicorn and Node close an idle connection
# A server that is added under load has its share after about this time. What it costs, one connect
# a minute for each connection, does not show.
MAX_AGE_S: Final = 60.0


class Pool(Client):
    """At most `size` connections to one host and port, at any of its addresses.

    A request that was lost with a connection which the server had closed while it was idle is
    sent once more, on a fresh one, if its method is idempotent.
    """

    repeatable = IDEMPOTENT
    repeats = 1

    def __init__(
        self,
        host: str,
        port: int,
        *,
        size: int,
        tls: ssl.SSLContext | None = None,
        idle_s: float = IDLE_S,
        max_age_s: float = MAX_AGE_S,
        hop_ms: int | None = None,
        patience: Patience | None = None,
        limits: AnswerLimits | None = None,
        ip: str | None = None,
    ) -> None:
        """ip: the only address of the host to connect to; else its name is asked for each time."""
        super().__init__(size=size, hop_ms=hop_ms, patience=patience)
        self._part = Connections(
            Address(host, port, tls=tls, ip=ip),
            self._places,
            idle_s=idle_s,
            max_age_s=max_age_s,
            limits=limits or AnswerLimits(),
        )
        self._parts = (self._part,)

    @classmethod
    def to(cls, url: str, *, size: int, idle_s: float = IDLE_S, hop_ms: int | None = None) -> Pool:
        """A pool to the origin of an http or https URL; https trusts what the system trusts."""
        host, port, tls = origin(url)
        return cls(host, port, size=size, tls=tls, idle_s=idle_s, hop_ms=hop_ms)

    @property
    def parts(self) -> Sequence[Connections]:
        return self._parts

    def _take_idle(
        self, now: float, *, repeatable: bool, avoid: Connection | None = None
    ) -> Connection | None:
        if avoid is None:
            return self._part.take_idle(now, repeatable=repeatable)
        if self._part.idle and self.open >= self.size:
            self._part.drop_oldest()  # the others may have been closed as well
        return None

    async def _connect(
        self, deadline: Deadline, patience: Patience, avoid: Connection | None
    ) -> Connection:
        return await self._part.connect(deadline, patience)
