"""S33: with the settings of production there are no docs, no debugging, no version."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import httpx
import pytest

from infra.local.addresses import free_port
from tests.faults.waiting import until
from tests.running_stack import RunningStack
from tests.security.processes import environment_of, process
from tests.security.wire import TELLTALE_HEADERS, assert_tells_nothing, exchange, request

CLOSED: Final = ("/docs", "/", "/redoc", "/debug", "/metrics", "/admin", "/.git/config", "/.env")


@pytest.mark.parametrize(
    ("docs", "status"),
    [("", 404), pytest.param("false", 404, marks=pytest.mark.faults), ("true", 200)],
)
async def test_docs_are_served_only_where_it_is_said(
    stack: RunningStack, tmp_path: Path, docs: str, status: int
) -> None:
    port = free_port()
    environment = environment_of(stack, TERCET_BUSINESS_PORT=str(port))
    environment |= {"TERCET_DOCS": docs} if docs else {}
    secret = {"x-internal-secret": stack.secret("internal_secret")}
    url = f"http://127.0.0.1:{port}"
    with process("business", environment=environment, log=tmp_path / "business.log"):
        async with httpx.AsyncClient(base_url=url, headers=secret, trust_env=False) as client:
            await until(lambda: lives(client), within_s=30, what="business lives")
            assert (await client.get("/docs")).status_code == status
            assert (await client.get("/openapi.json")).status_code == 200


async def lives(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/live")).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("path", CLOSED[2:])
def test_nothing_is_served_that_is_not_part_of_the_shop(stack: RunningStack, path: str) -> None:
    answer = exchange(stack.url, request("GET", path))
    assert answer.status == 404
    assert_tells_nothing(answer)


@pytest.mark.parametrize("path", ["/live", "/ready", "/products", "/openapi.json", "/none", "/%00"])
def test_no_answer_names_a_server_or_sends_a_browser_astray(stack: RunningStack, path: str) -> None:
    answer = exchange(stack.url, request("GET", path, "origin: https://evil.example"))
    names = {name for name, _ in answer.headers}
    assert not names & TELLTALE_HEADERS
    assert answer.header("x-content-type-options") == "nosniff"
    assert "access-control-allow-origin" not in names


@pytest.mark.parametrize("path", ["/problems/not-found", "/pictures/a-b.svg"])
def test_what_a_browser_shows_runs_nothing(stack: RunningStack, path: str) -> None:
    answer = exchange(stack.url, request("GET", path))
    assert answer.status == 200
    assert "default-src 'none'" in (answer.header("content-security-policy") or "")
    assert b"<script" not in answer.body
