"""Live streams over real sockets and a real Valkey: what each client is told, and when it ends."""

from __future__ import annotations

import asyncio
import hashlib
import random
import secrets
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio
import trustme

from services.access import live as live_module
from services.access import live_topics
from services.access.live import Live
from services.access.live_door import RETRY_MS
from services.live_stream import STREAM
from services.live_watch import ASKED, WATCHED
from tests.access.conftest import Access, request, running
from tests.access.live_client import TOLD_WITHIN_S, Listener, close_all, listen
from tests.access.upstream import Seen, Upstream, answer
from tests.faults.waiting import until
from tests.own_valkey import OwnValkey, own_valkey

WITHIN_S = TOLD_WITHIN_S


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def valkey() -> AsyncIterator[OwnValkey]:
    async with own_valkey() as started:
        yield started


@pytest_asyncio.fixture(autouse=True)
async def all_closed() -> AsyncIterator[None]:
    yield
    await close_all()


@asynccontextmanager
async def listened_to(valkey: OwnValkey, **changes: Any) -> AsyncIterator[Access]:
    """access that follows the stream."""
    async with (
        Upstream(business) as upstream,
        running(upstream, valkey_url=valkey.url, **changes) as access,
    ):
        live = live_of(access)
        await until(lambda: live.follower.following, within_s=WITHIN_S, what="it follows")
        yield access


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared(valkey: OwnValkey) -> AsyncIterator[Access]:
    async with listened_to(valkey) as access:
        yield access


async def business(seen: Seen) -> bytes:
    """Knows those who are in CUSTOMERS, by the hash of their token."""
    if not seen.target.startswith(b"/internal/identities/"):
        return answer()
    digest = seen.target.rpartition(b"/")[2]
    if digest not in CUSTOMERS:
        return answer(b"", 404)
    return answer(orjson.dumps(CUSTOMERS[digest]))


CUSTOMERS: dict[bytes, dict[str, Any]] = {}


def live_of(access: Access) -> Live:
    protocol: Any = access.server.config.http
    live: Live = protocol.edge.live
    return live


def products() -> tuple[str, str]:
    """A product that no other test looks at: its slug and its topic."""
    slug = f"thing-{random.getrandbits(60)}"
    return slug, f"product:{slug}"


async def asked_for(valkey: OwnValkey, topic: str) -> None:
    async def is_asked() -> bool:
        return bool(await valkey.client.sismember(ASKED, topic))

    await until(is_asked, within_s=WITHIN_S, what=f"{topic} is asked for")


# What is told


async def test_a_stream_begins_with_how_long_to_wait_and_an_id_to_come_back_with(
    shared: Access,
) -> None:
    listener = await listen(shared.port, f"products={products()[0]}")
    await listener.begun()
    head = listener.head.lower()
    assert listener.status == 200
    for line in ("content-type: text/event-stream", "cache-control: no-store", "connection: close"):
        assert line in head
    assert "content-length" not in head
    assert RETRY_MS[0] <= listener.retry_ms <= RETRY_MS[1]
    await listener.close()


async def test_what_is_new_is_asked_for_and_told_to_all_who_listen(
    shared: Access, valkey: OwnValkey
) -> None:
    slug, topic = products()
    first = await listen(shared.port, f"products={slug}")
    await asked_for(valkey, topic)
    assert await valkey.client.zscore(WATCHED, topic) is not None
    state = await valkey.tell(topic)
    await first.told(state)
    await valkey.client.delete(ASKED)
    second = await listen(shared.port, f"products={slug}")
    await second.told(state)  # from what is known here
    assert not await valkey.client.exists(ASKED)
    newer = await valkey.tell(topic)
    await first.told(newer)
    await second.told(newer)
    assert first.data == second.data == [state, newer]
    assert first.events[0][0] == "product"
    for listener in (first, second):
        await listener.close()


async def test_nobody_is_told_of_what_he_does_not_listen_to(
    shared: Access, valkey: OwnValkey
) -> None:
    (mine, my_topic), (_, other_topic) = products(), products()
    listener = await listen(shared.port, f"products={mine}")
    await listener.begun()
    await valkey.tell(other_topic)
    state = await valkey.tell(my_topic)
    await listener.told(state)
    assert listener.data == [state]
    await listener.close()


async def test_who_comes_back_gets_what_he_missed_and_nothing_twice(
    shared: Access, valkey: OwnValkey
) -> None:
    slug, topic = products()
    listener = await listen(shared.port, f"products={slug}")
    await listener.begun()
    first = await valkey.tell(topic)
    await listener.told(first)
    await listener.close()
    missed = [await valkey.tell(topic) for _ in range(3)]
    back = await listen(shared.port, f"products={slug}", f"Last-Event-ID: {listener.last_id}")
    await back.told(missed[-1])
    last = await valkey.tell(topic)
    await back.told(last)
    assert back.data == [*missed, last]
    assert back.resets == 0
    await back.close()


@pytest.mark.parametrize(
    "last_id", ["nonsense", "00000000-1-1", "{epoch}-99999999999999-0", "1" * 5000]
)
async def test_who_has_missed_what_is_not_known_here_is_told_to_begin_anew(
    shared: Access, valkey: OwnValkey, last_id: str
) -> None:
    slug, topic = products()
    before = await listen(shared.port, f"products={slug}")
    await before.begun()
    state = await valkey.tell(topic)
    await before.told(state)
    epoch = before.last_id.partition("-")[0]
    listener = await listen(
        shared.port, f"products={slug}", f"Last-Event-ID: {last_id.format(epoch=epoch)}"
    )
    await listener.told(state)
    assert listener.events[0] == ("reset", b"{}")
    assert listener.data == [state]
    for each in (before, listener):
        await each.close()


async def test_a_restarted_process_has_its_history_from_the_stream(
    shared: Access, valkey: OwnValkey
) -> None:
    slug, topic = products()
    listener = await listen(shared.port, f"products={slug}")
    await listener.begun()
    first = await valkey.tell(topic)
    await listener.told(first)
    await listener.close()
    missed = await valkey.tell(topic)
    async with listened_to(valkey) as successor:
        back = await listen(
            successor.port, f"products={slug}", f"Last-Event-ID: {listener.last_id}"
        )
        await back.told(missed)
        assert (back.data, back.resets) == ([missed], 0)
        await back.close()


async def test_a_history_that_was_cut_off_does_not_reach(
    valkey: OwnValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with listened_to(valkey) as access:
        live = live_of(access)
        slug, topic = products()
        listener = await listen(access.port, f"products={slug}")
        await listener.begun()
        await listener.close()
        monkeypatch.setattr(live.history, "_messages_limit", 2)
        states = [await valkey.tell(topic) for _ in range(3)]
        await until(lambda: len(live.history) == 2, within_s=WITHIN_S, what="the history is cut")
        back = await listen(access.port, f"products={slug}", f"Last-Event-ID: {listener.last_id}")
        await back.told(states[-1])
        assert (back.resets, back.data) == (1, [states[-1]])
        await back.close()


# Ways to ask


@pytest.mark.parametrize(
    ("query", "field", "detail"),
    [
        ("", "products", "nothing is asked for"),
        ("products=", "products", "has to be slugs"),
        ("products=A", "products", "has to be slugs"),
        ("products=a,,b", "products", "has to be slugs"),
        ("products=" + ",".join(f"p{n}" for n in range(51)), "products", "at most 50"),
        ("products=" + "p" * 201, "products", "has to be slugs"),
        ("products=a&products=b", "products", "more than once"),
        ("sales=1", "sales", "has to be ids"),
        ("orders=you", "orders", "has to be me"),
        ("colour=red", "colour", "is not known"),
        ("%00=red", "query", "is not known"),
        ("products=a%0d%0ab", "products", "has to be slugs"),
    ],
)
async def test_bad_input_is_a_problem_that_names_it(
    shared: Access, query: str, field: str, detail: str
) -> None:
    response = await shared.get(f"/live?{query}")
    assert response.status == 400
    (error,) = orjson.loads(response.body)["errors"]
    assert (error["field"], detail in error["detail"]) == (field, True), error


async def test_without_a_query_it_says_that_it_lives_unless_events_are_asked_for(
    shared: Access,
) -> None:
    assert (await shared.get("/live")).body == b'{"status":"live"}'
    assert (await shared.get("/live", "Accept: text/event-stream")).status == 400


async def test_only_reading_is_possible(shared: Access) -> None:
    response = await shared.get("/live?products=a", method="POST")
    assert (response.status, response.headers["allow"]) == (405, "GET, HEAD")


async def test_head_has_the_head_only_and_the_connection_goes_on(shared: Access) -> None:
    client = await shared.connect()
    response = await client.send(request("/live?products=a", method="HEAD"))
    assert (response.status, response.headers["content-type"]) == (200, "text/event-stream")
    assert (await client.send(request("/live"))).status == 200
    await client.close()


async def test_http_1_0_gets_a_stream_too(shared: Access, valkey: OwnValkey) -> None:
    slug, topic = products()
    listener = Listener(*await asyncio.open_connection("127.0.0.1", shared.port))
    listener.writer.write(f"GET /live?products={slug} HTTP/1.0\r\n\r\n".encode())
    await listener.read_on()
    await listener.begun()
    await listener.told(await valkey.tell(topic))
    await listener.close()


async def test_what_is_asked_before_it_is_answered_first_and_what_comes_behind_is_not(
    shared: Access, valkey: OwnValkey
) -> None:
    slug, topic = products()
    client = await shared.connect()
    ahead, behind = request("/live"), request("/live") * 3
    client.writer.write(ahead + request(f"/live?products={slug}") + behind)
    assert (await client.answer()).body == b'{"status":"live"}'
    listener = Listener(client.reader, client.writer)
    await listener.read_on()
    client.writer.write(behind)
    await listener.told(await valkey.tell(topic))
    assert b"HTTP/1.1" not in listener.body
    await listener.close()


async def test_who_says_no_more_is_taken_as_gone(shared: Access) -> None:
    live = live_of(shared)
    listener = await listen(shared.port, f"products={products()[0]}")
    await listener.begun()
    before = live.clients.open
    listener.writer.write_eof()
    await listener.gone()
    await until(lambda: live.clients.open < before, within_s=WITHIN_S, what="it is forgotten")
    await listener.close()


# Whose it is


def new_id() -> str:
    return f"00000000-0000-0000-0000-{random.getrandbits(40):012x}"


def known_customer(role: str = "customer", *guests: str) -> tuple[str, str]:
    """A token, and the id of the customer whose it is."""
    token, customer_id = secrets.token_urlsafe(32), new_id()
    CUSTOMERS[digest_of(token)] = {
        "customer_id": customer_id,
        "role": role,
        "session_id": None,
        "guests": list(guests),
        "expires_in_s": 60,
    }
    return token, customer_id


def digest_of(token: str) -> bytes:
    return hashlib.sha256(token.encode()).hexdigest().encode()


async def test_orders_are_told_to_their_customer_only(shared: Access, valkey: OwnValkey) -> None:
    (mine, my_id), (others, other_id) = known_customer(), known_customer()
    me = await listen(shared.port, "orders=me", f"Authorization: Bearer {mine}")
    other = await listen(shared.port, "orders=me", f"Cookie: tercet_customer={others}")
    for listener in (me, other):
        await listener.begun()
    my_order = await valkey.tell(f"customer:{my_id}", event="order")
    other_order = await valkey.tell(f"customer:{other_id}", event="order")
    await me.told(my_order)
    await other.told(other_order)
    assert me.events == [("order", my_order)]
    assert other.events == [("order", other_order)]
    for listener in (me, other):
        await listener.close()


@pytest.mark.parametrize("line", ["", "Cookie: tercet_customer=" + "x" * 43])
async def test_nobody_has_no_orders(shared: Access, line: str) -> None:
    assert (await shared.get("/live?orders=me", *filter(None, [line]))).status == 401


async def test_orders_of_the_guest_that_one_was_are_ones_own(
    shared: Access, valkey: OwnValkey
) -> None:
    guest_id = new_id()
    token, customer_id = known_customer("customer", guest_id)
    listener = await listen(shared.port, "orders=me", f"Authorization: Bearer {token}")
    await listener.begun()
    told = [
        await valkey.tell(f"customer:{owner}", event="order") for owner in (guest_id, customer_id)
    ]
    await listener.told(told[-1])
    assert listener.data == told


async def test_who_is_not_known_any_more_is_told_nothing_more(
    shared: Access, valkey: OwnValkey
) -> None:
    """Without a relay to vouch for it, what is known of a token is believed for a second."""
    live = live_of(shared)
    (ended, _), (lasting, _) = known_customer(), known_customer()
    gone, stays = [
        await listen(shared.port, "orders=me", f"Authorization: Bearer {token}")
        for token in (ended, lasting)
    ]
    before = live.disowned_total
    del CUSTOMERS[digest_of(ended)]
    await gone.gone()
    assert live.disowned_total == before + 1
    again = await listen(shared.port, "orders=me", f"Authorization: Bearer {ended}")
    assert again.status == 401
    assert not stays.ended


async def test_whose_role_or_guests_change_has_to_come_again(shared: Access) -> None:
    for change in ({"role": "merchant"}, {"guests": [new_id()]}):
        token, _ = known_customer()
        listener = await listen(shared.port, "orders=me", f"Authorization: Bearer {token}")
        CUSTOMERS[digest_of(token)] |= change
        await listener.gone()


async def test_analytics_are_for_merchants(shared: Access, valkey: OwnValkey) -> None:
    for role in ("customer", "guest"):
        token, _ = known_customer(role)
        refused = await shared.get("/live?analytics=all", f"Authorization: Bearer {token}")
        assert (role, refused.status) == (role, 403)
    assert (await shared.get("/live?analytics=all")).status == 401
    for role in ("operator", "merchant"):
        token, customer_id = known_customer(role)
        listener = await listen(shared.port, "analytics=all", f"Authorization: Bearer {token}")
        await listener.begun()
        await valkey.tell(f"customer:{customer_id}", event="order")
        told = await valkey.tell("analytics", event="analytics")
        await listener.told(told)
        assert listener.events[-1] == ("analytics", told)
        assert {event for event, _ in listener.events} == {"analytics"}


# Limits


async def test_a_slow_reader_is_cut_off_and_nobody_waits_for_it(
    shared: Access, valkey: OwnValkey
) -> None:
    live = live_of(shared)
    slug, topic = products()
    quick = await listen(shared.port, f"products={slug}")
    await quick.begun()
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", shared.port))
        slow.sendall(request(f"/live?products={slug}"))
        loop = asyncio.get_running_loop()
        assert b"200 OK" in await loop.run_in_executor(None, slow.recv, 1000)
        before = live.slow_total
        state = b'{"filler":"%b"}' % (b"x" * 20_000)
        for number in range(100):
            await quick.told(await valkey.tell(topic, state[:-1] + b',"n":%d}' % number))
            if live.slow_total > before:
                break
        assert live.slow_total == before + 1
        # 64 KB here, twice 32 in the kernel, and what the client's own kernel takes.
        assert number < 20
        await until(lambda: live.clients.open == 1, within_s=WITHIN_S, what="it is forgotten")
    await quick.close()


async def test_a_slow_reader_is_cut_off_behind_tls_too(valkey: OwnValkey, tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    issued.private_key_pem.write_to_path(key)
    for part in issued.cert_chain_pems:
        part.write_to_path(certificate, append=True)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    slug, topic = products()
    async with listened_to(
        valkey, access_tls_certificate=certificate, access_tls_key=key
    ) as access:
        live = live_of(access)
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", access.port, ssl=trusting, limit=1024
        )
        writer.write(request(f"/live?products={slug}"))
        assert b"200 OK" in await reader.readline()
        for number in range(200):
            await valkey.tell(topic, b'{"filler":"%b","n":%d}' % (b"x" * 20_000, number))
            await asyncio.sleep(0.002)
            if live.slow_total:
                break
        await until(lambda: live.slow_total == 1, within_s=WITHIN_S, what="it is cut off")
        writer.transport.abort()


async def test_what_is_told_at_the_beginning_may_be_more_than_may_pile_up(
    shared: Access, valkey: OwnValkey
) -> None:
    slugs = [products()[0] for _ in range(20)]
    query = f"products={','.join(slugs)}"
    first = await listen(shared.port, query)
    await first.begun()
    states = [
        await valkey.tell(f"product:{slug}", b'{"filler":"%b"}' % (b"x" * 9000)) for slug in slugs
    ]
    await until(lambda: len(first.data) == 20, within_s=WITHIN_S, what="all are told")
    second = await listen(shared.port, query)
    await until(lambda: len(second.data) == 20, within_s=WITHIN_S, what="all are told at once")
    assert second.data == states
    for listener in (first, second):
        await listener.close()


async def test_streams_are_limited_by_address_and_in_all(valkey: OwnValkey) -> None:
    limits: dict[str, Any] = {"live_limit": 3, "live_limit_by_address": 2, "unlimited_networks": ""}
    async with listened_to(valkey, **limits) as access:
        listeners = [await listen(access.port, "products=a") for _ in range(2)]
        refused = await access.get("/live?products=a")
        assert (refused.status, refused.headers["retry-after"]) == (429, "10")
        await listeners[0].close()

        async def is_let_in() -> bool:
            listener = await listen(access.port, "products=a")
            listeners.append(listener)
            return listener.status == 200

        await until(is_let_in, within_s=WITHIN_S, what="there is room again")
        for listener in listeners:
            await listener.close()
    async with listened_to(valkey, live_limit=1) as access:
        listener = await listen(access.port, "products=a")
        assert (await access.get("/live?products=a")).status == 503
        await listener.close()


async def test_topics_are_limited_and_one_too_many_takes_nobodys_place(
    valkey: OwnValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_topics, "TOPICS_LIMIT", 2)
    async with listened_to(valkey) as access:
        listener = await listen(access.port, "products=a,b")
        assert (await access.get("/live?products=c")).status == 503
        assert (await access.get("/live?products=c")).status == 503
        again = await listen(access.port, "products=b,a")
        assert again.status == 200
        assert live_of(access).clients.open == 2
        for each in (listener, again):
            await each.close()


async def test_a_topic_that_nobody_listens_to_is_let_go(
    valkey: OwnValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "TICK_S", 0.005)
    monkeypatch.setattr(live_topics, "LINGER_S", 0.05)
    async with listened_to(valkey) as access:
        live = live_of(access)
        listener = await listen(access.port, "products=a")
        await listener.begun()
        assert len(live.topics) == 1
        await listener.close()
        await until(lambda: len(live.topics) == 0, within_s=WITHIN_S, what="it is let go")


async def test_heartbeats_come_from_one_timer_and_to_everybody(
    valkey: OwnValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "TICK_S", 0.005)
    async with listened_to(valkey) as access:
        listeners = [await listen(access.port, "products=a") for _ in range(5)]
        await until(
            lambda: all(each.comments >= 2 for each in listeners),
            within_s=WITHIN_S,
            what="everybody hears twice",
        )
        for each in listeners:
            await each.close()


async def test_a_full_memory_ends_streams_and_lets_no_new_one_in(valkey: OwnValkey) -> None:
    async with listened_to(valkey) as access:
        protocol: Any = access.server.config.http
        memory, live = protocol.edge.memory, live_of(access)
        listeners = [await listen(access.port, "products=a") for _ in range(20)]
        memory.pressure = 2
        assert (await access.get("/live?products=a")).status == 503
        loop = access.server.servers[0].get_loop()
        loop.call_soon_threadsafe(live.shed)
        await until(
            lambda: sum(each.ended for each in listeners) == 2, within_s=WITHIN_S, what="a tenth"
        )
        assert live.shed_total == 2
        memory.pressure = 0
        for each in listeners:
            await each.close()


# What happens to Valkey


async def test_a_valkey_that_is_lost_is_a_reset_and_then_everything_is_told_again() -> None:
    async with own_valkey() as valkey, listened_to(valkey) as access:
        slug, topic = products()
        listener = await listen(access.port, f"products={slug}")
        await asked_for(valkey, topic)
        first = await valkey.tell(topic)
        await listener.told(first)
        valkey.kill()
        waiting = await listen(
            access.port, f"products={slug}", f"Last-Event-ID: {listener.last_id}"
        )
        await waiting.begun()
        assert (waiting.data, waiting.resets) == ([], 0)  # nothing is known to have been missed
        await valkey.start()
        await asked_for(valkey, topic)  # whoever tells states finds out what is watched
        await until(lambda: listener.resets == 1, within_s=WITHIN_S, what="the reset")
        second = await valkey.tell(topic)
        await listener.told(second)
        assert listener.data == [first, second]
        assert not listener.ended
        for each in (listener, waiting):
            await each.close()


async def test_who_comes_before_valkey_does_waits_for_it() -> None:
    async with own_valkey() as valkey:
        valkey.kill()
        async with Upstream() as upstream, running(upstream, valkey_url=valkey.url) as access:
            slug, topic = products()
            new = await listen(access.port, f"products={slug}")
            back = await listen(access.port, f"products={slug}", "Last-Event-ID: 00000000-5-0")
            assert (new.status, new.last_id) == (200, "")
            await valkey.start()
            for each in (new, back):
                await each.begun()
            assert (new.resets, back.resets) == (0, 1)
            state = await valkey.tell(topic)
            for each in (new, back):
                await each.told(state)
                await each.close()


async def test_a_short_loss_of_the_connection_loses_nothing(
    shared: Access, valkey: OwnValkey
) -> None:
    slug, topic = products()
    listener = await listen(shared.port, f"products={slug}")
    await listener.begun()
    states = []
    for _ in range(5):
        await valkey.client.client_kill_filter(_type="normal", skipme=True)
        states.append(await valkey.tell(topic))
    await listener.told(states[-1])
    assert (listener.data, listener.resets) == (states, 0)
    await listener.close()


async def test_entries_that_can_not_be_read_do_no_harm(shared: Access, valkey: OwnValkey) -> None:
    slug, topic = products()
    listener = await listen(shared.port, f"products={slug}")
    await listener.begun()
    for fields in (
        {"x": "y"},
        {"topic": topic, "key": topic, "event": "product", "data": "a\nevent: forged"},
        {"topic": topic, "key": topic, "event": "pro\nduct", "data": "{}"},
    ):
        entry: Any = fields
        await valkey.client.xadd(STREAM, entry)
    state = await valkey.tell(topic)
    await listener.told(state)
    assert listener.data == [state]
    await listener.close()


# The end


async def test_a_stop_ends_streams_one_after_another_and_sends_new_ones_away_softly(
    valkey: OwnValkey,
) -> None:
    async with listened_to(valkey) as access:
        live = live_of(access)
        listeners = [await listen(access.port, "products=a") for _ in range(20)]
        loop = access.server.servers[0].get_loop()
        loop.call_soon_threadsafe(live.stop, 0.4)
        await until(
            lambda: 0 < sum(each.ended for each in listeners) < 20,
            within_s=WITHIN_S,
            what="some have ended and others have not",
        )
        late = await listen(access.port, "products=a")
        await late.gone()
        assert (late.status, late.retry_ms >= RETRY_MS[0]) == (200, True)
        for each in listeners:
            await each.gone()
            await each.close()
        await late.close()
