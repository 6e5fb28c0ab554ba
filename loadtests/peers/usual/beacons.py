"""The usual way to take behaviour events: Starlette, a pydantic model, redis-py and an XADD each.

python -m loadtests.peers.usual.beacons --port PORT --log REDIS_URL
"""

from __future__ import annotations

import argparse
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import orjson
import uvicorn
from pydantic import BaseModel, Field, StringConstraints, ValidationError
from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

Slug = Annotated[str, StringConstraints(max_length=200, pattern="^[a-z0-9]+(-[a-z0-9]+)*$")]


class Event(BaseModel):
    """An event of any type."""

    id: UUID
    type: Literal["view", "search", "add_to_cart", "checkout", "purchase"]
    at: datetime
    product: Slug | None = None
    query: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    results: Annotated[int, Field(ge=0)] | None = None


class Batch(BaseModel):
    """What is sent."""

    events: Annotated[list[Event], Field(min_length=1, max_length=100)]


async def take(request: Request) -> Response:
    try:
        batch = Batch.model_validate_json(await request.body())
    except ValidationError as error:
        return JSONResponse({"errors": error.errors(include_context=False)}, 422)
    log: Redis = request.app.state.log
    events = orjson.dumps([event.model_dump(mode="json") for event in batch.events])
    await log.xadd("events", {"t": int(time.time() * 1000), "e": events})
    return JSONResponse({"accepted": len(batch.events)}, 202)


def application(log_url: str) -> Starlette:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        app.state.log = Redis.from_url(log_url)
        yield
        await app.state.log.aclose()

    async def live(_: Request) -> Response:
        return PlainTextResponse("live")

    routes = [Route("/events", take, methods=["POST"]), Route("/live", live)]
    return Starlette(routes=routes, lifespan=lifespan)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtests.peers.usual.beacons")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--log", required=True)
    options = parser.parse_args()
    uvicorn.run(
        application(options.log),
        port=options.port,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
