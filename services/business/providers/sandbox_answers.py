"""How the sandbox provider answers, and how it fails to: late, never, by hanging up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from services.business.providers.sandbox_behaviour import Delivery
from services.joining import JoiningTransport
from services.problems import InternalError, Problem, TooManyRequests, Unavailable

HANG_UP: Final = "tercet.hang_up"
# A caller that is told "not now" comes back no sooner than this; the shortest that HTTP can say.
REFUSED_RETRY_AFTER_S: Final = 1


class SandboxProtocol(HttpToolsProtocol):
    """uvicorn's own protocol, which also lets an application close the connection unanswered."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(JoiningTransport(transport, self.loop))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        hang_up: dict[object, object] = {"close": self.transport.abort}
        self.scope["extensions"] = {HANG_UP: hang_up}


class HangUp(Response):
    """No answer: the connection is closed at once."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _close(scope, receive)


class Silence(Response):
    """No answer: the connection stays open until the caller gives up or this process stops."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await _disconnected(receive)
        except asyncio.CancelledError:
            # The server is stopping. The caller must not see an answer even now.
            await _close(scope, receive)


class Late(Response):
    """An answer that is sent after a delay, if the caller is still there."""

    def __init__(self, answer: Response, delay_ms: int) -> None:
        super().__init__()
        self._answer = answer
        self._delay_s = delay_ms / 1000

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(self._delay_s):
                await _disconnected(receive)
        except TimeoutError:
            await self._answer(scope, receive, send)
        except asyncio.CancelledError:
            await _close(scope, receive)


def deliver(delivery: Delivery, answer: Response | None, *, delay_ms: int) -> Response:
    """The answer as this delivery brings it; `answer` is None where nothing was charged."""
    match delivery:
        case Delivery.DROP_AFTER_CHARGE:
            return HangUp()
        case Delivery.HANG:
            return Silence()
        case Delivery.ERROR | Delivery.ERROR_AFTER_CHARGE:
            return render(InternalError("the sandbox was asked to answer with an error"))
        case Delivery.RATE_LIMIT:
            return render(
                TooManyRequests("the sandbox was asked to", retry_after_s=REFUSED_RETRY_AFTER_S)
            )
        case Delivery.REFUSE:
            return render(
                Unavailable("the sandbox was asked to refuse", retry_after_s=REFUSED_RETRY_AFTER_S)
            )
    if answer is None:
        raise ValueError(f"{delivery} needs an answer")
    return Late(answer, delay_ms) if delivery is Delivery.SLOW else answer


def json_answer(value: object, status: int = 200) -> Response:
    return Response(
        msgspec.json.encode(value),
        status_code=status,
        media_type="application/json",
        headers={"cache-control": "no-store"},
    )


def render(problem: Problem) -> Response:
    return Response(problem.body(), status_code=problem.status, headers=problem.headers())


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _close(scope: Scope, receive: Receive) -> None:
    close: Callable[[], None] = scope["extensions"][HANG_UP]["close"]
    close()
    await _disconnected(receive)
