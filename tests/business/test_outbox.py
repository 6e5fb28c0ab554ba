"""The relay: at least once, behind the commit, whatever dies in between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import uuid4

import msgspec
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from services.business import outbox as relay
from services.business.payments import pay
from services.business.shop import Shop
from services.data import outbox
from services.data.publisher import EVENTS_STREAM, NotPublished, ValkeyPublisher
from services.data.tags import POSITION_KEY, WAKE_CHANNEL, TagPublisher
from services.event_log import APPENDED, LOG
from services.events import Booked, read_events
from services.tags import CHANNEL, HEARTBEAT_S, TagMessage
from services.tasks import end_tasks
from tests.faults.waiting import until
from tests.shopping import Books, place

HEARD_WITHIN_S = 5.0
WAITING = "select count(*) from outbox where published_at is null"


class Heard:
    """The messages of one relay, as they came."""

    def __init__(self) -> None:
        self.name = uuid4().hex
        self.messages: list[TagMessage] = []

    def tags(self) -> list[str]:
        return [tag for message in self.messages for tag in message.tags]

    async def listen(self, valkey: Redis, ready: asyncio.Event, *, everyone: bool = False) -> None:
        async with valkey.pubsub(ignore_subscribe_messages=True) as channel:
            await channel.subscribe(CHANNEL)
            ready.set()
            while True:
                found = await channel.get_message(timeout=1.0)
                if found is None:
                    continue
                message = msgspec.json.decode(found["data"], type=TagMessage)
                if everyone or message.relay == self.name:
                    self.messages.append(message)


@pytest_asyncio.fixture
async def valkey(valkey_url: str) -> AsyncIterator[Redis]:
    client = Redis.from_url(valkey_url)
    yield client
    await client.aclose()


@pytest_asyncio.fixture
async def heard(valkey: Redis, lab_books: Books) -> AsyncIterator[Heard]:
    """An ear on the tag stream, and an outbox with nothing in it."""
    await lab_books.rows("delete from outbox")
    made, ready = Heard(), asyncio.Event()
    listening = asyncio.create_task(made.listen(valkey, ready))
    await ready.wait()
    yield made
    await end_tasks(listening)


async def leave(books: Books, *names: str, kind: str = "tag") -> None:
    for name in names:
        await books.rows(
            "insert into outbox (kind, name, aggregate_id) values ($1, $2, 'a')", kind, name
        )


async def test_tags_are_told_once_each_with_a_position_behind_their_commit(
    heard: Heard, lab_shop: Shop, lab_books: Books, valkey: Redis
) -> None:
    tags = [uuid4().hex, uuid4().hex]
    await leave(lab_books, tags[0], tags[1], tags[0])
    position_sql = "select (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint"
    committed = await lab_books.value(position_sql)
    assert await relay.run_once(lab_shop, ValkeyPublisher(valkey, heard.name)) == 3
    await until(lambda: bool(heard.messages), within_s=HEARD_WITHIN_S, what="the tags are heard")
    (message,) = heard.messages
    assert message.tags == tags
    assert committed < message.position <= await lab_books.value(position_sql)
    assert await valkey.get(POSITION_KEY + tags[0]) == str(message.position).encode()
    assert await lab_books.value(WAITING) == 0
    assert await relay.run_once(lab_shop, ValkeyPublisher(valkey, heard.name)) == 0


async def test_events_go_to_their_stream_in_order_with_an_id_to_know_them_by(
    heard: Heard, lab_shop: Shop, lab_books: Books, valkey: Redis
) -> None:
    goods = await lab_books.goods()
    await lab_books.rows("delete from outbox")
    key = await place(lab_shop, {goods.variant: 1})
    await leave(lab_books, "something_else", kind="event")
    newest: Any = await valkey.xrevrange(EVENTS_STREAM, count=1)
    await relay.run_once(lab_shop, ValkeyPublisher(valkey, heard.name))
    since = b"(" + newest[0][0] if newest else b"-"
    entries: Any = await valkey.xrange(EVENTS_STREAM, min=since)
    ours = (str(key.order_id).encode(), b"a")
    mine = [fields for _, fields in entries if fields[b"aggregate_id"] in ours]
    assert [fields[b"name"] for fields in mine] == [b"order_placed", b"something_else"]
    assert msgspec.json.decode(mine[0][b"payload"]) == {"total_minor": 1000}
    ids = [int(fields[b"event_id"]) for fields in mine]
    assert ids == sorted(set(ids))


async def test_a_stream_of_changes_is_told_in_few_rounds(
    heard: Heard, lab_shop: Shop, lab_books: Books
) -> None:
    told = lab_shop.rounds_of("outbox")
    relaying = asyncio.create_task(relay.run(lab_shop))
    try:
        await until(lambda: told.took.count > 0, within_s=HEARD_WITHIN_S, what="it has begun")
        began_at, items, rounds = time.monotonic(), told.items_total, told.took.count
        for _ in range(60):
            await leave(lab_books, uuid4().hex)
            lab_shop.changed()
        await until(
            lambda: told.items_total >= items + 60, within_s=HEARD_WITHIN_S, what="all are told"
        )
        # Those that have told something are ROUND_S apart; of others there is one after each.
        most = 2 * (2 + (time.monotonic() - began_at) / relay.ROUND_S)
        assert told.took.count - rounds <= most
    finally:
        await end_tasks(relaying)


class DiesAfter(Exception):
    """Stands for the end of the process."""


class DyingPublisher(ValkeyPublisher):
    """A relay that publishes, and is gone before it can mark what it published."""

    async def publish_tags(self, tags: Sequence[str], position: int) -> None:
        await super().publish_tags(tags, position)
        raise DiesAfter


async def test_what_a_relay_claimed_and_did_not_mark_is_published_again(
    heard: Heard, lab_shop: Shop, lab_books: Books, valkey: Redis
) -> None:
    tag = uuid4().hex
    await leave(lab_books, tag)
    with pytest.raises(DiesAfter):
        await relay.run_once(lab_shop, DyingPublisher(valkey, heard.name))
    other = ValkeyPublisher(valkey, heard.name)
    assert await relay.run_once(lab_shop, other) == 0  # it is the dead relay's, for now
    await lab_books.rows("update outbox set claimed_until = now()")
    assert await relay.run_once(lab_shop, other) == 1
    await until(
        lambda: heard.tags() == [tag, tag], within_s=HEARD_WITHIN_S, what="it is told twice"
    )
    assert await lab_books.value(WAITING) == 0


async def test_what_could_not_be_published_is_published_as_soon_as_it_can_be(
    heard: Heard, lab_shop: Shop, lab_books: Books, valkey: Redis
) -> None:
    """Not after the lease: until then heartbeats would vouch for pages that are old."""
    await leave(lab_books, uuid4().hex)
    nobody = Redis.from_url("redis://127.0.0.1:1")
    with pytest.raises(NotPublished):
        await relay.run_once(lab_shop, ValkeyPublisher(nobody, heard.name))
    await nobody.aclose()
    assert await lab_books.value(WAITING) == 1
    assert await relay.run_once(lab_shop, ValkeyPublisher(valkey, heard.name)) == 1


async def test_events_that_can_not_be_published_hold_no_tag_up_nor_tags_events(
    heard: Heard, lab_shop: Shop, lab_books: Books, valkey: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are, and though they came first: they go to another Valkey."""
    monkeypatch.setattr(relay, "ROWS", 5)
    tag = uuid4().hex
    await leave(lab_books, *["something"] * 12, kind="event")
    await leave(lab_books, tag)
    nobody = Redis.from_url("redis://127.0.0.1:1")
    without_log = ValkeyPublisher(valkey, heard.name, nobody)
    with pytest.raises(relay.EventsNotPublished):
        await relay.run_once(lab_shop, without_log)
    assert await relay.run_once(lab_shop, without_log, with_events=False) == 0
    await until(lambda: heard.tags() == [tag], within_s=HEARD_WITHIN_S, what="the tag is told once")
    assert await lab_books.value(WAITING) == 12
    await leave(lab_books, tag)
    with pytest.raises(NotPublished):
        await relay.run_once(lab_shop, ValkeyPublisher(nobody, heard.name, valkey))
    await nobody.aclose()
    waiting = await lab_books.rows("select kind from outbox where published_at is null")
    assert sorted(row["kind"] for row in waiting) == ["event"] * 7 + ["tag"]


async def test_transfers_go_into_the_log_to_be_counted(
    heard: Heard, lab_shop: Shop, lab_books: Books, valkey: Redis
) -> None:
    goods = await lab_books.goods()
    await lab_books.rows("delete from outbox")
    key = await place(lab_shop, {goods.variant: 2})
    paid = await pay(lab_shop, key, "tok_approve", "a-key", b"body")
    newest: Any = await valkey.xrevrange(LOG, count=1)
    since = b"(" + newest[0][0] if newest else b"-"
    await relay.run_once(lab_shop, ValkeyPublisher(valkey, heard.name, valkey))
    entries: Any = await valkey.xrange(LOG, min=since)
    told = [one for _, fields in entries for one in read_events(fields[b"e"])]
    (booked,) = [one for one in told if isinstance(one, Booked)]
    assert (booked.cause, booked.cause_id) == ("payment_captured", paid.payment.payment_id)
    assert (booked.debit_account, booked.credit_account) == ("provider_clearing", "sales")
    assert (booked.amount_minor, booked.currency) == (2000, "USD")
    await valkey.delete(LOG, APPENDED)


async def test_two_relays_share_the_work_and_publish_each_row_once(
    heard: Heard, lab_shop: Shop, lab_books: Books, valkey: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "ROWS", 5)
    tags = {uuid4().hex for _ in range(40)}
    await leave(lab_books, *tags)
    publishers = [ValkeyPublisher(valkey, heard.name) for _ in range(4)]
    counts = await asyncio.gather(
        *(relay.run_once(lab_shop, publisher) for publisher in publishers for _ in range(2))
    )
    assert sum(counts) == 40
    await until(lambda: len(heard.tags()) >= 40, within_s=HEARD_WITHIN_S, what="all are told")
    assert sorted(heard.tags()) == sorted(tags)


async def test_rows_of_a_transaction_that_is_still_open_are_not_told(
    heard: Heard, lab_shop: Shop, lab_books: Books, valkey: Redis
) -> None:
    tag = uuid4().hex
    async with lab_shop.database.primary.transaction() as tx:
        await outbox.insert_tags(tx, [tag])
        assert await relay.run_once(lab_shop, ValkeyPublisher(valkey, heard.name)) == 0
    assert await relay.run_once(lab_shop, ValkeyPublisher(valkey, heard.name)) == 1


async def test_the_relay_that_runs_is_woken_and_says_that_it_lives(
    heard: Heard, lab_shop: Shop, lab_books: Books, valkey: Redis
) -> None:
    everyone, ready = Heard(), asyncio.Event()
    listening = asyncio.create_task(everyone.listen(valkey, ready, everyone=True))
    await ready.wait()
    running = asyncio.create_task(relay.run(lab_shop))
    try:
        tag = uuid4().hex
        await leave(lab_books, tag)
        lab_shop.changed()
        await until(lambda: tag in everyone.tags(), within_s=HEARD_WITHIN_S, what="it is told")
        (ours,) = {m.relay for m in everyone.messages if tag in m.tags}

        def beats() -> bool:
            mine = [m for m in everyone.messages if m.relay == ours]
            return len([m for m in mine if not m.tags]) >= 2

        took_s = await until(beats, within_s=HEARD_WITHIN_S, what="there are heartbeats")
        assert took_s < 4 * HEARTBEAT_S
        mine = [m.sequence for m in everyone.messages if m.relay == ours]
        assert mine == list(range(mine[0], mine[0] + len(mine)))
    finally:
        await end_tasks(running, listening)


async def test_events_without_tags_do_not_silence_the_relay(
    heard: Heard, lab_shop: Shop, lab_books: Books, valkey: Redis
) -> None:
    publisher = ValkeyPublisher(valkey, heard.name)
    for _ in range(4):
        publisher.spoke_at -= HEARTBEAT_S  # as if that much time had passed
        await leave(lab_books, "order_placed", kind="event")
        assert await relay.run_once(lab_shop, publisher) == 1
        await relay.beat(lab_shop, publisher)
    await until(lambda: len(heard.messages) == 4, within_s=HEARD_WITHIN_S, what="it is heard")


async def test_no_heartbeat_vouches_for_a_tag_that_another_relay_may_have_died_with(
    heard: Heard, lab_shop: Shop, lab_books: Books, valkey: Redis
) -> None:
    await leave(lab_books, uuid4().hex)
    async with lab_shop.database.primary.transaction() as tx:
        assert len(await outbox.claim_unpublished(tx, 10)) == 1
    other = ValkeyPublisher(valkey, heard.name)
    await relay.beat(lab_shop, other)
    assert other.spoke_at == float("-inf")
    await lab_books.rows("update outbox set claimed_until = now()")
    assert await relay.run_once(lab_shop, other) == 1
    other.spoke_at -= HEARTBEAT_S
    await relay.beat(lab_shop, other)
    await until(lambda: len(heard.messages) == 2, within_s=HEARD_WITHIN_S, what="both are heard")


async def test_a_position_is_never_put_back_by_a_slower_relay(valkey: Redis) -> None:
    tag = uuid4().hex
    await TagPublisher(valkey, "quick").publish([tag], 2000)
    await TagPublisher(valkey, "slow").publish([tag], 1000)
    assert await valkey.get(POSITION_KEY + tag) == b"2000"
    await TagPublisher(valkey, "later").publish([tag], 10_000)
    assert await valkey.get(POSITION_KEY + tag) == b"10000"


async def test_what_was_published_long_ago_is_dropped_and_nothing_else(
    heard: Heard, lab_shop: Shop, lab_books: Books
) -> None:
    await leave(lab_books, "old", "young", "waiting")
    await lab_books.rows("update outbox set published_at = now() where name <> 'waiting'")
    await lab_books.rows(
        "update outbox set published_at = now() - interval '2 hours' where name = 'old'"
    )
    await outbox.trim_published(lab_shop.database.primary)
    left = await lab_books.rows("select name from outbox order by name")
    assert [row["name"] for row in left] == ["waiting", "young"]


async def test_a_backlog_is_dropped_in_portions(
    heard: Heard, lab_shop: Shop, lab_books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All at once it would run into the timeout of a statement, each time anew."""
    monkeypatch.setattr("services.data.outbox.TRIMMED", 3)
    await leave(lab_books, *"abcdefg")
    await lab_books.rows("update outbox set published_at = now() - interval '2 hours'")
    left = []
    for _ in range(3):
        more = await outbox.trim_published(lab_shop.database.primary)
        left.append((more, await lab_books.value("select count(*) from outbox")))
    assert left == [(True, 4), (True, 1), (False, 0)]


async def test_the_relay_goes_on_dropping_while_there_is_more(
    heard: Heard, lab_shop: Shop, lab_books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.data.outbox.TRIMMED", 3)
    monkeypatch.setattr("services.business.outbox.TRIM_S", 1.0)
    await leave(lab_books, *"abcdefg")
    await lab_books.rows("update outbox set published_at = now() - interval '2 hours'")
    relaying = asyncio.create_task(relay.run(lab_shop))

    async def is_empty() -> bool:
        return bool(await lab_books.value("select count(*) = 0 from outbox"))

    took_s = await until(is_empty, within_s=HEARD_WITHIN_S, what="all was dropped")
    await end_tasks(relaying)
    assert took_s < 2.5  # one interval, not one for each of three portions


async def test_no_business_transaction_uses_notify(lab_books: Books) -> None:
    """NOTIFY takes a lock over all databases at commit: one commit at a time."""
    calls = await lab_books.value(
        "select count(*) from pg_stat_statements where query ~* '(^|\\s)(notify|pg_notify)'"
        " and query !~ 'pg_stat_statements'"
    )
    assert calls == 0


async def test_no_function_of_the_database_uses_it_either(lab_books: Books) -> None:
    sql = "select proname from pg_proc where pronamespace = 'public'::regnamespace"
    assert await lab_books.rows(f"{sql} and prosrc ~* '\\mpg_notify\\M|\\mnotify\\M'") == []


async def test_the_commits_of_one_moment_wake_the_relays_once(
    lab_shop: Shop, valkey: Redis
) -> None:
    """And one that comes while that is under way is told of afterwards."""
    wake_ups = lab_shop.store.wake_ups
    asked, sent = wake_ups.asked, wake_ups.sent
    woken: list[bytes] = []

    async def all_are_sent() -> None:
        # Not by finish(), which closes the shop of all the tests that come after this one.
        await until(
            lambda: not lab_shop.handed_over, within_s=HEARD_WITHIN_S, what="wake-ups are sent"
        )

    async with valkey.pubsub(ignore_subscribe_messages=True) as channel:
        await channel.subscribe(WAKE_CHANNEL)
        for _ in range(200):
            lab_shop.changed()
        await asyncio.sleep(0)
        assert wake_ups.sent == sent + 1  # it is under way
        lab_shop.changed()
        await all_are_sent()
        assert (wake_ups.asked - asked, wake_ups.sent - sent) == (201, 2)
        lab_shop.changed()
        await all_are_sent()

        async def are_heard() -> bool:
            message = await channel.get_message(timeout=0.05)
            woken.extend([message["data"]] if message else [])
            return len(woken) >= 3

        await until(are_heard, within_s=HEARD_WITHIN_S, what="the relays are woken")


async def test_the_lag_counts_what_waits_and_the_age_of_the_oldest(
    heard: Heard, lab_shop: Shop, lab_books: Books, valkey: Redis
) -> None:
    primary = lab_shop.database.primary
    assert await outbox.lag(primary) == (0, 0.0)
    await leave(lab_books, "a", "b", "c")
    await lab_books.rows(
        "update outbox set created_at = now() - interval '1 minute' where name = 'b'"
    )
    rows, oldest_s = await outbox.lag(primary)
    assert rows == 3
    assert 60 <= oldest_s < 90
    await relay.run_once(lab_shop, ValkeyPublisher(valkey, heard.name))
    assert await outbox.lag(primary) == (0, 0.0)
