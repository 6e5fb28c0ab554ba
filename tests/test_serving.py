"""services/serving.py as a process: ready, stopped, refused."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
from pathlib import Path

import pytest

from tests.access.conftest import request
from tests.failures.access_process import free_port
from tests.failures.swarm import Swarm, asked_once
from tests.faults.waiting import until

SERVE = """
import asyncio, os, signal, uvicorn
from services.serving import serve

async def app(scope, receive, send):
    if scope["type"] == "http":
        await asyncio.sleep(0.005)
        await send({"type": "http.response.start", "status": 200,
                    "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})
        return
    assert scope["type"] == "lifespan"
    await receive()
    await send({"type": "lifespan.startup." + os.environ["STARTUP"]})
    await receive()
    print("ended", flush=True)
    await send({"type": "lifespan.shutdown.complete"})

class Config(uvicorn.Config):
    def get_loop_factory(self):
        if os.environ["STARTUP"] == "stopped":
            os.kill(os.getpid(), signal.SIGTERM)
        return super().get_loop_factory()

port = int(os.environ.get("PORT", 0))
serve(Config(app, port=port, loop="uvloop", http="httptools", lifespan="on", log_config=None))
"""


async def start(folder: Path, startup: str, port: int = 0) -> asyncio.subprocess.Process:
    environment = os.environ | {
        "TERCET_READY_FILE": str(folder / "ready"),
        "STARTUP": startup,
        "PORT": str(port),
    }
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SERVE), env=environment, stdout=asyncio.subprocess.PIPE
    )


async def ended(child: asyncio.subprocess.Process) -> tuple[int | None, bytes]:
    try:
        async with asyncio.timeout(20):
            said, _ = await child.communicate()
    finally:
        if child.returncode is None:
            child.kill()
            await child.communicate()
    return child.returncode, said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_stop_that_was_asked_for_is_graceful_and_no_failure(
    tmp_path: Path, number: signal.Signals
) -> None:
    child = await start(tmp_path, "complete")
    try:
        await until((tmp_path / "ready").exists, within_s=20, what="it is ready")
        child.send_signal(number)
    finally:
        code, said = await ended(child)
    assert (code, said.endswith(b"ended\n")) == (0, True)


async def test_uvicorns_own_protocol_loses_nothing_either(tmp_path: Path) -> None:
    """Business' way to stop: each answer says that it is the last on its connection."""
    port = free_port()
    child = await start(tmp_path, "complete", port)
    try:
        await until((tmp_path / "ready").exists, within_s=20, what="it is ready")
        kept, _ = await asked_once(port, request("/"))
        async with Swarm(port, request("/"), 20) as swarm:
            await until(lambda: swarm.answered > 200, within_s=10, what="busy")
            child.send_signal(signal.SIGTERM)

            async def is_stopping() -> bool:
                client, answer = await asked_once(port, request("/ready"))
                await client.close()
                return (answer.status, answer.headers.get("connection")) == (503, "close")

            await until(is_stopping, within_s=2, what="it says that it stops, and still accepts")
            assert (await kept.send(request("/"))).headers["connection"] == "close"
            await kept.close()
    finally:
        code, _ = await ended(child)
    assert (code, swarm.lost, swarm.statuses) == (0, [], {200})


async def test_a_stop_while_it_starts_is_not_lost(tmp_path: Path) -> None:
    assert await ended(await start(tmp_path, "stopped")) == (0, b"")
    assert not (tmp_path / "ready").exists()


async def test_what_does_not_start_is_a_failure_and_never_ready(tmp_path: Path) -> None:
    code, _ = await ended(await start(tmp_path, "failed"))
    assert code not in (0, None)
    assert not (tmp_path / "ready").exists()


async def test_a_stop_of_business_is_no_failure_even_with_nothing_behind_it(
    tmp_path: Path,
) -> None:
    away = "127.0.0.1:1"  # nobody listens on it
    named = ["APP_PASSWORD", "READ_PASSWORD", "PROVIDER_SECRET", "OPERATOR_TOKEN"]
    named += ["COOKIE_SECRET", "INTERNAL_SECRET", "WEBHOOK_SECRET"]
    environment = os.environ | {f"TERCET_{name}": secrets.token_urlsafe(32) for name in named}
    environment |= {
        "TERCET_READY_FILE": str(tmp_path / "ready"),
        "TERCET_BUSINESS_PORT": "0",
        "TERCET_PRIMARY_DSN": f"postgresql://tercet_app@{away}/tercet",
        "TERCET_VALKEY_URL": f"redis://{away}/0",
        "TERCET_PROVIDER_URL": f"http://{away}",
    }
    environment.pop("TERCET_SECRETS_DIR", None)
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "infra.process", "business"),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await until((tmp_path / "ready").exists, within_s=20, what="it is ready")
        child.send_signal(signal.SIGTERM)
    finally:
        code, _ = await ended(child)
    assert code == 0
