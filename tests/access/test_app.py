"""What access answers itself: health, problems, and the names every answer carries."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from services.access import health
from services.access.edge import Edge
from services.access.forward import Forwarder
from tests.access.conftest import Access, running, settings_for
from tests.access.upstream import Seen, Upstream, always, answer
from tests.faults.waiting import until


async def test_live_asks_nobody(access: Access) -> None:
    response = await access.get("/live")
    assert (response.status, orjson.loads(response.body)) == (200, {"status": "live"})
    assert response.headers["cache-control"] == "no-store"
    assert access.upstream.requests == []


async def test_head_of_a_local_answer_has_no_body(access: Access) -> None:
    client = await access.connect()
    for _ in range(2):
        response = await client.send(b"HEAD /live HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (response.status, response.headers["content-length"]) == (200, "17")
    await client.close()


@pytest.mark.parametrize("path", ["/live", "/ready"])
async def test_health_is_only_read(access: Access, path: str) -> None:
    response = await access.get(path, method="POST")
    assert (response.status, response.headers["allow"]) == (405, "GET, HEAD")


async def test_ready_follows_business(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "HELD_S", 0.02)
    async with Upstream() as upstream, running(upstream) as access:
        assert (await access.get("/ready")).status == 200
        assert upstream.requests[0].target == b"/ready"
        upstream.script = always(answer(b"{}", 503))

        async def refused() -> bool:
            return (await access.get("/ready")).status == 503

        async def ready() -> bool:
            return (await access.get("/ready")).status == 200

        await until(refused, within_s=5, what="not ready")
        assert (await access.get("/live")).status == 200
        upstream.script = always(answer())
        await until(ready, within_s=5, what="ready again")
        await upstream.stop()
        await until(refused, within_s=5, what="not ready without business")


async def test_a_silent_business_makes_access_unready_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health, "ASK_S", 0.1)

    async def silence(_: Seen) -> bytes:
        await asyncio.Event().wait()
        return b""

    async with Upstream(silence) as upstream, running(upstream) as access:
        async with asyncio.timeout(2):
            assert (await access.get("/ready")).status == 503


async def test_many_probes_are_one_question(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "HELD_S", 60)
    async with Upstream() as upstream, running(upstream) as access:
        await asyncio.gather(*(access.get("/ready") for _ in range(20)))
        assert len(upstream.requests) == 1


@pytest.mark.parametrize("path", ["/live", "/products/a", "/internal/x", "/nowhere"])
async def test_every_answer_has_the_clients_request_id(access: Access, path: str) -> None:
    response = await access.get(path, "X-Request-Id: my-own_id.7")
    assert response.headers["x-request-id"] == "my-own_id.7"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.names.count("x-request-id") == 1


async def test_a_refused_request_has_the_clients_request_id(access: Access) -> None:
    response = await access.get("/x", "X-Request-Id: my-own", "Transfer-Encoding: gzip")
    assert (response.status, response.headers["x-request-id"]) == (400, "my-own")


async def test_no_answer_names_the_server_or_allows_other_origins(access: Access) -> None:
    for path in ("/live", "/x", "/internal/x", "/%00"):
        response = await access.get(path, "Origin: https://elsewhere.example")
        assert "server" not in response.headers
        assert not [name for name in response.names if name.startswith("access-control-")]
        assert response.names.count("date") == 1


async def test_a_bug_is_500_with_its_request_id_and_nothing_else(
    access: Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(Forwarder, "_headers", broken)
    response = await access.get("/x", "X-Request-Id: find-me")
    assert (response.status, response.headers["x-request-id"]) == (500, "find-me")
    assert b"secret detail" not in response.body
    assert (await access.get("/live")).status == 200


async def test_two_edges_share_nothing() -> None:
    first, second = Edge(settings_for("http://a:1")), Edge(settings_for("http://b:1"))
    assert first.forwarder.pools is not second.forwarder.pools


async def test_a_client_that_leaves_before_it_is_told_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    held, asked = asyncio.Event(), asyncio.Event()

    async def script(_: Seen) -> bytes:
        asked.set()
        await held.wait()
        return answer()

    async with Upstream(script) as upstream, running(upstream) as access:
        client = await access.connect()
        client.writer.write(b"GET /ready HTTP/1.1\r\nHost: a\r\n\r\n")
        await asked.wait()
        await client.close()
        state = access.server.server_state
        await until(lambda: not state.connections, within_s=5, what="it has left")
        held.set()
        await until(lambda: not state.tasks, within_s=5, what="its answer is over")
    assert [each for each in caplog.records if each.levelname == "ERROR"] == []
