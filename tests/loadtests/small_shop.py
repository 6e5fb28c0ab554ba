"""A server with the shop's addresses and nothing behind them, as fast or slow as it is told.

python -m tests.loadtests.small_shop [--work-ms N] [--sold-out] [--payment-state STATE] prints its
port. With --work-ms it does one request at a time, each taking so long: a known capacity.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from typing import Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.faults.waiting import until

PAGES: Final = {"": (["red-shirt", "blue-shirt"], "more"), "more": (["green-shirt"], None)}


def make_app(options: argparse.Namespace) -> Starlette:
    one_at_a_time = asyncio.Semaphore(1)
    seen_keys: set[str] = set()

    async def work() -> None:
        if options.work_ms:
            async with one_at_a_time:
                await asyncio.sleep(options.work_ms / 1000)

    async def products(request: Request) -> Response:
        slugs, following = PAGES[request.query_params.get("cursor", "")]
        return JSONResponse({"items": [{"slug": s} for s in slugs], "next_cursor": following})

    async def product(request: Request) -> Response:
        slug = request.path_params["slug"]
        variants = [
            {"variant_id": f"{slug}-m", "band": "in_stock"},
            {"variant_id": f"{slug}-s", "band": "sold_out"},
        ]
        await work()
        return JSONResponse({"variants": variants})

    async def order(request: Request) -> Response:
        lines = (await request.json())["lines"]
        if options.sold_out:
            return JSONResponse({"type": "/problems/out-of-stock"}, 409)
        if lines[0]["variant_id"].endswith("-s") or not is_new(request):
            return JSONResponse({}, 422)
        return JSONResponse({"order_id": "o-1", "customer_token": "token-1"}, 201)

    async def payment(request: Request) -> Response:
        if request.headers.get("authorization") != "Bearer token-1" or not is_new(request):
            return JSONResponse({}, 401)
        body = await request.json()
        return JSONResponse({"payment_id": body["payment_method"], "state": options.state}, 201)

    def is_new(request: Request) -> bool:
        key = request.headers["idempotency-key"]
        is_known = key in seen_keys
        seen_keys.add(key)
        return not is_known

    return Starlette(
        routes=[
            Route("/products", products),
            Route("/products/{slug}", product),
            Route("/orders", order, methods=["POST"]),
            Route("/orders/o-1/payments", payment, methods=["POST"]),
        ]
    )


async def run(options: argparse.Namespace) -> None:
    config = uvicorn.Config(make_app(options), port=0, log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.started, within_s=10, what="the server listens")
    print(server.servers[0].sockets[0].getsockname()[1], flush=True)  # noqa: T201
    await serving


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--work-ms", type=float, default=0.0)
    parser.add_argument("--sold-out", action="store_true")
    parser.add_argument("--state", default="SUCCESS")
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    asyncio.run(run(parser.parse_args()))
