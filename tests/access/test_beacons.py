"""POST /events: what is acknowledged is in the log, what can not be kept is refused in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, cast
from uuid import uuid4

import orjson
import pytest
from redis.asyncio import Redis

from services.access.edge import Edge
from services.access.protocol import AccessProtocol
from services.access.routes import Route
from services.event_log import APPENDED, LOG
from services.events import View, read_events
from tests.access.conftest import Access, Answer, Client, request, running
from tests.access.upstream import Upstream
from tests.events_valkey import EventsValkey, events_valkey
from tests.faults.waiting import until

JSON: Final = "content-type: application/json"
AT: Final = "2026-03-01T10:00:00.000Z"


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EventsValkey]:
    with events_valkey(tmp_path_factory.mktemp("events")) as started:
        yield started


@pytest.fixture
async def log(valkey: EventsValkey) -> AsyncIterator[Redis]:
    """The log, empty."""
    async with Redis.from_url(valkey.url) as client:
        await client.delete(LOG, APPENDED)
        yield client


@pytest.fixture(scope="module")
async def one_taking(valkey: EventsValkey) -> AsyncIterator[Access]:
    async with Upstream() as upstream, running(upstream, events_url=valkey.url) as access:
        yield access


@pytest.fixture
async def taking(one_taking: Access, log: Redis) -> Access:
    """Access with a log of events, which is empty."""
    return one_taking


def edge_of(access: Access) -> Edge:
    return cast(type[AccessProtocol], access.server.config.http).edge


def view(**changes: object) -> dict[str, object]:
    return {"id": str(uuid4()), "type": "view", "at": AT, "product": "a-lamp"} | changes


def batch(*events: Mapping[str, object]) -> bytes:
    return orjson.dumps({"events": list(events)})


async def post(access: Access, body: bytes, *lines: str) -> Answer:
    return await access.get("/events", *(lines or (JSON,)), method="POST", body=body)


async def appended(log: Redis) -> int:
    found: Any = await log.get(APPENDED)
    return int(found)


async def entries(log: Redis) -> list[dict[bytes, bytes]]:
    found: Any = await log.xrange(LOG)
    return [fields for _, fields in found]


async def test_what_is_acknowledged_is_one_entry_a_batch(taking: Access, log: Redis) -> None:
    before_ms = time.time() * 1000
    wanted: list[dict[str, object]] = [
        view(),
        view(product=None),
        {"id": str(uuid4()), "type": "checkout", "at": AT},
    ]
    answer = await post(taking, batch(*wanted))
    assert answer.status == 202
    assert orjson.loads(answer.body) == {"accepted": 3}
    assert answer.headers["cache-control"] == "no-store"
    (entry,) = await entries(log)
    assert before_ms - 1 <= int(entry[b"t"]) <= time.time() * 1000 + 1
    assert int(entry[b"n"]) == 3
    kept = read_events(entry[b"e"])
    assert [str(event.id) for event in kept] == [event["id"] for event in wanted]  # type: ignore[union-attr]  # none is the shop's own
    assert isinstance(kept[0], View)
    assert kept[0].product == "a-lamp"
    assert await appended(log) == 3
    assert not taking.upstream.requests


async def test_every_type_and_the_plain_text_of_a_beacon_are_taken(
    taking: Access, log: Redis
) -> None:
    common: dict[str, object] = {"at": AT}
    wanted: list[dict[str, object]] = [
        {"id": str(uuid4()), "type": "search", "query": "lamp", "results": 0} | common,
        {"id": str(uuid4()), "type": "add_to_cart", "product": "a-lamp"} | common,
        {"id": str(uuid4()), "type": "purchase", "later": "fields are ignored"} | common,
    ]
    answer = await post(taking, batch(*wanted), "content-type: text/plain;charset=UTF-8")
    assert answer.status == 202
    (entry,) = await entries(log)
    assert b"ignored" not in entry[b"e"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"type": "refund"}, "/events/1/type"),
        ({"type": "booked"}, "/events/1/type"),  # only the shop itself says so
        ({"at": "2026-03-01T10:00:00"}, "/events/1/at"),
        ({"at": None}, "/events/1/at"),
        ({"id": "x"}, "/events/1/id"),
        ({"product": "No Slug"}, "/events/1/product"),
        ({"product": "a" * 201}, "/events/1/product"),
    ],
)
async def test_a_problem_names_the_event_that_is_wrong(
    taking: Access, log: Redis, changes: dict[str, object], field: str
) -> None:
    answer = await post(taking, batch(view(), view(**changes)))
    assert answer.status == 422
    problem = orjson.loads(answer.body)
    assert problem["type"] == "/problems/invalid-body"
    assert [error["field"] for error in problem["errors"]] == [field]
    assert not await entries(log)


@pytest.mark.parametrize(
    ("body", "lines", "status"),
    [
        (b"{", (JSON,), 400),
        (batch(view()).replace(b"a-lamp", b"\xff"), (JSON,), 400),
        (b"[]", (JSON,), 422),
        (batch(), (JSON,), 422),
        (batch(*[view() for _ in range(101)]), (JSON,), 422),
        (batch(view()), ("content-type: application/x-www-form-urlencoded",), 415),
        (batch(view()), ("accept: */*",), 415),
    ],
)
async def test_a_body_of_another_kind_is_refused(
    taking: Access, log: Redis, body: bytes, lines: tuple[str, ...], status: int
) -> None:
    answer = await post(taking, body, *lines)
    assert answer.status == status
    assert orjson.loads(answer.body)["status"] == status
    assert not await entries(log)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_events_are_only_posted(taking: Access, method: str) -> None:
    answer = await taking.get("/events", method=method)
    assert (answer.status, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("line", ["dnt: 1", "sec-gpc: 1"])
async def test_who_asks_not_to_be_tracked_is_counted_and_not_kept(
    taking: Access, log: Redis, line: str
) -> None:
    before = edge_of(taking).beacons.private_total
    answer = await post(taking, batch(view()), JSON, line)
    assert answer.status == 204
    assert answer.body == b""
    assert edge_of(taking).beacons.private_total == before + 1
    assert not await entries(log)


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("sec-fetch-site: same-origin", 202),
        ("origin: http://shop.example", 202),
        ("sec-fetch-site: cross-site", 403),
        ("origin: http://elsewhere.example", 403),
    ],
)
async def test_a_page_of_another_site_can_not_count_as_ours(
    taking: Access, log: Redis, line: str, status: int
) -> None:
    assert (await post(taking, batch(view()), JSON, line)).status == status
    assert len(await entries(log)) == (status == 202)


async def test_a_visitor_is_the_same_for_a_day_and_nothing_says_who_it_is(
    taking: Access, log: Redis
) -> None:
    token = "t" * 43
    cookie = f"cookie: other=1; tercet_customer={token}"
    for lines in ((JSON, cookie), (JSON, cookie, "user-agent: b"), (JSON, "user-agent: b")):
        assert (await post(taking, batch(view()), *lines)).status == 202
    found = await entries(log)
    names = [entry[b"v"] for entry in found]
    assert names[0] == names[1] != names[2]
    assert all(len(name) == 8 for name in names)
    for entry in found:
        kept = b"".join(entry.values())
        assert not any(part in kept for part in (b"127.0.0.1", token.encode(), b"user-agent"))


async def test_requests_that_come_together_share_an_append(taking: Access, log: Redis) -> None:
    beacons = edge_of(taking).beacons
    before = beacons.appends_total
    bodies = [batch(*[view() for _ in range(20)]) for _ in range(60)]
    answers = await asyncio.gather(*(post(taking, body) for body in bodies))
    assert {answer.status for answer in answers} == {202}
    assert await appended(log) == 1200
    assert len(await entries(log)) == 60
    assert beacons.appends_total - before < 60
    assert beacons.buffered_bytes == 0


async def test_pipelined_batches_are_answered_in_order(taking: Access, log: Redis) -> None:
    client = await taking.connect()
    sizes = (1, 3, 2)
    client.writer.write(
        b"".join(
            request("/events", JSON, method="POST", body=batch(*[view() for _ in range(size)]))
            for size in sizes
        )
    )
    answers = [orjson.loads((await client.answer()).body)["accepted"] for _ in sizes]
    assert answers == list(sizes)
    await client.close()


async def test_other_traffic_goes_first(taking: Access, log: Redis) -> None:
    gate = edge_of(taking).admission.gates[Route.PAGE]
    gate.pressed_until = time.monotonic() + 60
    try:
        answer = await post(taking, batch(view()))
    finally:
        gate.pressed_until = 0.0
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) > 0
    assert orjson.loads(answer.body)["type"] == "/problems/overloaded"
    assert not await entries(log)


@asynccontextmanager
async def own(valkey: EventsValkey, **changes: Any) -> AsyncIterator[Access]:
    async with (
        Upstream() as upstream,
        running(upstream, events_url=valkey.url, **changes) as access,
    ):
        yield access


async def test_an_address_has_a_limit(valkey: EventsValkey) -> None:
    async with own(valkey, address_rates="beacon=1/3", unlimited_networks="") as access:
        answers = [await post(access, batch(view())) for _ in range(5)]
    statuses = [answer.status for answer in answers]
    assert statuses[0] == 202
    assert statuses[-1] == 429
    assert int(answers[-1].headers["retry-after"]) > 0


async def test_without_a_log_events_are_refused(access: Access) -> None:
    answer = await post(access, batch(view()))
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) > 0


def many() -> bytes:
    return batch(*[view(product=f"p-{'x' * 190}") for _ in range(100)])


async def test_the_buffer_is_bounded(tmp_path: Path) -> None:
    """The log stands still: what has gathered is answered in the end, the rest at once."""
    with events_valkey(tmp_path / "events") as valkey:
        async with own(valkey, events_buffer_bytes=65_536) as access:
            assert (await post(access, many())).status == 202
            async with Redis.from_url(valkey.url) as client:
                await client.client_pause(300)
                answers = await asyncio.gather(*(post(access, many()) for _ in range(10)))
                kept = await appended(client)
            statuses = [answer.status for answer in answers]
            assert statuses.count(429) > 0
            assert kept == 100 * (1 + statuses.count(202))
            assert set(statuses) == {202, 429}
            assert edge_of(access).beacons.buffered_bytes == 0


async def test_a_log_without_room_refuses_and_keeps_what_it_has_acknowledged(
    tmp_path: Path,
) -> None:
    with events_valkey(tmp_path / "events", memory="16mb") as valkey:
        async with own(valkey) as access:
            statuses: list[int] = []
            while len(statuses) < 2000 and 429 not in statuses:
                answers = await asyncio.gather(*(post(access, many()) for _ in range(20)))
                statuses += [answer.status for answer in answers]
            assert set(statuses) == {202, 429}
            async with Redis.from_url(valkey.url) as client:
                assert await appended(client) == 100 * statuses.count(202)
                info = await client.info("memory")
                assert info["used_memory"] < info["maxmemory"], "the shop itself finds room"
                await client.delete(LOG)
            took = await until(
                lambda: _taken(access), within_s=10, what="they are taken again once there is room"
            )
            assert took < 10


async def _taken(access: Access) -> bool:
    return (await post(access, batch(view()))).status == 202


async def test_a_log_that_is_killed_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    with events_valkey(tmp_path / "events") as valkey:
        async with own(valkey) as access:
            acknowledged: list[str] = []
            statuses: set[int] = set()
            stop = asyncio.Event()

            async def send(client: Client) -> None:
                while not stop.is_set():
                    ids = [str(uuid4()) for _ in range(10)]
                    body = batch(*[view(id=each) for each in ids])
                    answer = await client.send(request("/events", JSON, method="POST", body=body))
                    statuses.add(answer.status)
                    if answer.status == 202:
                        acknowledged.extend(ids)
                    else:
                        assert int(answer.headers["retry-after"]) > 0
                        await asyncio.sleep(0.02)

            clients = [await access.connect() for _ in range(8)]
            senders = [asyncio.create_task(send(client)) for client in clients]
            await until(lambda: len(acknowledged) > 500, within_s=10, what="some are there")
            valkey.kill()
            await until(lambda: 503 in statuses, within_s=10, what="it is told")
            so_far = len(acknowledged)
            valkey.start()
            await until(lambda: len(acknowledged) > so_far, within_s=10, what="they go on")
            stop.set()
            await asyncio.gather(*senders)
            for client in clients:
                await client.close()
            async with Redis.from_url(valkey.url) as log:
                kept = [
                    str(event.id)  # type: ignore[union-attr]  # none is the shop's own
                    for entry in await entries(log)
                    for event in read_events(entry[b"e"])
                ]
                assert await appended(log) == len(kept)
            assert set(acknowledged) <= set(kept)
            assert statuses == {202, 503}
