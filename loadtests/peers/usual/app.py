"""The twin of business: Starlette, redis-py, asyncpg's pool and pydantic, as their guides say.

Cache-aside, as in Redis' own documentation: GET by key, else query, encode and SET with a lifetime.
It answers the same documents, and does less than business: no secret, no deadline, no breaker, no
validator, no purge of what was changed. No HTTP call is needed for a page, so there is no client.

DATABASE_URL=… REDIS_URL=… uvicorn loadtests.peers.usual.app:app
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg
from pydantic import BaseModel, ValidationError
from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from loadtests.peers.usual.catalog import load_list, load_product
from services.business.schemas import ListQuery

PAGE_TTL_S: Final = 60  # as business keeps pages and lists in Valkey
LIST_TTL_S: Final = 10
HEADERS: Final = {"cache-control": "public, max-age=0, s-maxage=10"}


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with asyncpg.create_pool(os.environ["DATABASE_URL"]) as pool:
        app.state.pool = pool
        app.state.redis = Redis.from_url(os.environ["REDIS_URL"])
        yield
        await app.state.redis.aclose()


async def product(request: Request) -> Response:
    slug = request.path_params["slug"]
    key = f"usual:product:{slug}"
    cached = await request.app.state.redis.get(key)
    if cached is not None:
        return Response(cached, media_type="application/json", headers=HEADERS)
    async with request.app.state.pool.acquire() as connection:
        document = await load_product(connection, slug)
    if document is None:
        raise HTTPException(404)
    return await stored(request, key, document, PAGE_TTL_S)


async def products(request: Request) -> Response:
    try:
        query = ListQuery.model_validate(dict(request.query_params))
    except ValidationError as error:
        return JSONResponse(error.errors(include_url=False), 400)
    key = f"usual:list:{query.model_dump_json()}"
    cached = await request.app.state.redis.get(key)
    if cached is not None:
        return Response(cached, media_type="application/json", headers=HEADERS)
    async with request.app.state.pool.acquire() as connection:
        document = await load_list(connection, query)
    return await stored(request, key, document, LIST_TTL_S)


async def stored(request: Request, key: str, document: BaseModel, ttl_s: int) -> Response:
    response = JSONResponse(document.model_dump(mode="json"), headers=HEADERS)
    await request.app.state.redis.set(key, bytes(response.body), ex=ttl_s)
    return response


async def ready(_: Request) -> Response:
    return JSONResponse({"ready": True})


app = Starlette(
    routes=[
        Route("/products/{slug}", product),
        Route("/products", products),
        Route("/ready", ready),
    ],
    lifespan=lifespan,
)
