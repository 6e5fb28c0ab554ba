"""Webhooks over HTTP: what is refused leaves nothing, what is stored is booked once."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from services.business import webhooks
from services.business.payments import claim
from services.business.shop import Shop
from services.data import webhooks as stored
from tests.faults.waiting import until
from tests.laboratory import OwnDatabase
from tests.running_stack import RunningStack
from tests.served_business import served_business
from tests.shopping import Books, place
from tests.webhooks import Sender, charge_event

PATIENT_S = 10.0
OLD_SECRET = secrets.token_urlsafe(32)


@pytest.fixture
def sender(stack: RunningStack, http: httpx.AsyncClient) -> Sender:
    """The provider, at the public address."""
    return Sender(http, stack.secret("webhook_secret"))


@pytest.fixture
async def served(laboratory: OwnDatabase) -> AsyncIterator[Sender]:
    """The provider of a business on the laboratory's database, which believes an old key too."""
    settings = laboratory.settings(webhook_secret_previous=SecretStr(OLD_SECRET))
    async with served_business(settings) as business:
        yield Sender(business.http, settings.webhook_secret.get_secret_value())


async def claimed(shop: Shop, books: Books, **goods: Any) -> dict[str, Any]:
    """A payment that is under way: its charge is still on the way to the provider."""
    made = await books.goods(**goods)
    key = await place(shop, {made.variant: 2})
    payment = (await claim(shop, key, "tok_approve", uuid4().hex, b"")).payment
    return payment._asdict() | {"variant_id": made.variant}


async def state_of(books: Books, payment: dict[str, Any]) -> str:
    sql = "select state from payments where payment_id = $1"
    return str(await books.value(sql, payment["payment_id"]))


async def becomes(books: Books, payment: dict[str, Any], state: str) -> None:
    async def is_there() -> bool:
        return await state_of(books, payment) == state

    await until(is_there, within_s=PATIENT_S, what=f"the payment is {state}")


async def counts(books: Books) -> tuple[int, ...]:
    tables = ("webhook_events", "ledger_transfers", "payment_reviews", "outbox")
    return tuple([await books.value(f"select count(*) from {table}") for table in tables])  # noqa: S608 - names above


async def rows_of(books: Books, webhook_id: str) -> list[dict[str, Any]]:
    sql = "select * from webhook_events where webhook_id = $1"
    return [dict(row) for row in await books.rows(sql, webhook_id)]


async def test_a_webhook_is_let_through_access_stored_and_booked(
    sender: Sender, shop: Shop, books: Books
) -> None:
    payment = await claimed(shop, books)
    answer = await sender.send(charge_event(payment, "approved"), webhook_id=f"msg_{uuid4().hex}")
    assert (answer.status_code, answer.json()["is_new"]) == (202, True)
    await becomes(books, payment, "SUCCESS")
    (transfer,) = await books.transfers(payment["payment_id"])
    assert transfer["amount_minor"] == payment["amount_minor"]
    assert await books.stock(payment["variant_id"]) == (98, 0, 2)
    (row,) = await rows_of(books, answer.json()["webhook_id"])
    assert json.loads(row["payload"])["data"]["charge_key"] == str(payment["payment_id"])


REFUSED: dict[str, tuple[int, dict[str, Any]]] = {
    "forged": (401, {"secrets": (secrets.token_urlsafe(32),)}),
    "too old": (401, {"off_s": -301}),
    "from the future": (401, {"off_s": 302}),  # a second may pass on the way
    "another key's and nobody's": (401, {"secrets": ("a" * 40, "b" * 40)}),
    "another id": (401, {"webhook-id": "msg_other"}),
    "another time": (401, {"webhook-timestamp": "1"}),
    "no signature": (400, {"webhook-signature": ""}),
    "another scheme": (400, {"webhook-signature": "v2,AAAA"}),
    "no base64": (400, {"webhook-signature": "v1,*"}),
    "no time": (400, {"webhook-timestamp": "soon"}),
    "no id": (400, {"webhook-id": ""}),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_is_not_signed_here_and_now_is_refused_and_leaves_nothing(
    name: str, served: Sender, lab_shop: Shop, lab_books: Books
) -> None:
    """Experiment 26: 100 % as listed, and no effect of any of them."""
    payment = await claimed(lab_shop, lab_books)
    before = await counts(lab_books)
    status, how = REFUSED[name]
    answer = await served.send(charge_event(payment, "approved"), **how)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert await counts(lab_books) == before
    assert await state_of(lab_books, payment) == "INIT"


async def test_one_bit_or_the_same_json_in_other_bytes_is_refused(
    served: Sender, lab_shop: Shop, lab_books: Books
) -> None:
    payment = await claimed(lab_shop, lab_books)
    event = charge_event(payment, "approved")
    body = json.dumps(event).encode()
    flipped = bytearray(body)
    flipped[body.index(b"approved")] ^= 1
    before = await counts(lab_books)
    again = json.dumps(event, separators=(",", ":")).encode()
    for sent in (bytes(flipped), again, body + b" ", b""):
        assert (await served.send(event, sent=sent)).status_code == 401
    assert await counts(lab_books) == before


@pytest.mark.parametrize(
    "how",
    [
        {"off_s": -295},
        {"off_s": 300},
        {"secrets": (OLD_SECRET,)},
        {"secrets": ("c" * 40, OLD_SECRET)},
        {},
    ],
    ids=["almost too old", "almost too early", "the old key", "two signatures", "as it should be"],
)
async def test_what_is_signed_by_a_key_of_ours_within_five_minutes_is_believed(
    how: dict[str, Any], served: Sender, lab_shop: Shop, lab_books: Books
) -> None:
    payment = await claimed(lab_shop, lab_books)
    answer = await served.send(charge_event(payment, "approved"), **how)
    assert answer.status_code == 202, answer.text
    await becomes(lab_books, payment, "SUCCESS")


async def test_an_old_key_that_nobody_names_is_refused(
    sender: Sender, shop: Shop, books: Books
) -> None:
    payment = await claimed(shop, books)
    answer = await sender.send(charge_event(payment, "approved"), secrets=(OLD_SECRET,))
    assert answer.status_code == 401
    assert await state_of(books, payment) == "INIT"


async def test_a_provider_that_we_do_not_have_is_not_found(sender: Sender) -> None:
    answer = await sender.http.post("/webhooks/nobody", json={})
    assert answer.status_code == 404


async def test_fifty_duplicates_at_once_are_one(
    served: Sender, lab_shop: Shop, lab_books: Books, laboratory: OwnDatabase
) -> None:
    """The race of ACIDRain's duplicate webhook, at two processes."""
    payment = await claimed(lab_shop, lab_books)
    event, webhook_id = charge_event(payment, "approved"), f"msg_{uuid4().hex}"
    async with served_business(laboratory.settings()) as second:
        other = Sender(second.http, served.secret)
        answers = await asyncio.gather(
            *((served, other)[n % 2].send(event, webhook_id=webhook_id) for n in range(50))
        )
        assert {answer.status_code for answer in answers} == {202}
        assert sum(answer.json()["is_new"] for answer in answers) == 1
        await becomes(lab_books, payment, "SUCCESS")
    assert len(await rows_of(lab_books, webhook_id)) == 1
    assert len(await lab_books.transfers(payment["payment_id"])) == 1
    assert await lab_books.stock(payment["variant_id"]) == (98, 0, 2)
    told = "select count(*) from outbox where aggregate_id = $1 and name = 'payment_success'"
    assert await lab_books.value(told, str(payment["payment_id"])) == 1


async def test_fifty_of_one_charge_by_other_ids_are_one_payment(
    served: Sender, lab_shop: Shop, lab_books: Books
) -> None:
    """A provider that says the same under fifty ids: each is stored, the money is booked once."""
    payment = await claimed(lab_shop, lab_books)
    answers = await asyncio.gather(
        *(served.send(charge_event(payment, "approved")) for _ in range(50))
    )
    assert all(answer.json()["is_new"] for answer in answers)
    await becomes(lab_books, payment, "SUCCESS")
    await until(lambda: all_handled(lab_books), within_s=PATIENT_S, what="all are handled")
    assert len(await lab_books.transfers(payment["payment_id"])) == 1


async def all_handled(books: Books) -> bool:
    waiting = "select count(*) from webhook_events where state = 'waiting'"
    return bool(await books.value(waiting) == 0)


@pytest.mark.parametrize(
    ("order", "ends"),
    [
        (["approved", "pending"], "SUCCESS"),
        (["pending", "approved", "pending"], "SUCCESS"),
        (["declined", "pending"], "FAILED"),
        (["pending", "pending", "declined"], "FAILED"),
    ],
)
async def test_any_order_ends_in_what_the_provider_decided(
    order: list[str], ends: str, served: Sender, lab_shop: Shop, lab_books: Books
) -> None:
    payment = await claimed(lab_shop, lab_books)
    for status in order:
        assert (await served.send(charge_event(payment, status))).status_code == 202
        await until(lambda: all_handled(lab_books), within_s=PATIENT_S, what="it is handled")
    assert await state_of(lab_books, payment) == ends
    assert len(await lab_books.transfers(payment["payment_id"])) == (ends == "SUCCESS")
    assert await lab_books.broken_rules() == []


async def test_what_contradicts_a_final_state_is_logged_and_not_applied(
    lab_shop: Shop, lab_books: Books
) -> None:
    payment = await claimed(lab_shop, lab_books)
    with capture_logs() as logs:
        for status in ("approved", "declined"):
            await store(lab_shop, charge_event(payment, status))
            await webhooks.run_once(lab_shop)
    assert await state_of(lab_books, payment) == "SUCCESS"
    (line,) = [line for line in logs if line["event"] == "final state contradicted"]
    assert (line["log_level"], line["provider_says"]) == ("error", "FAILED")
    assert await all_handled(lab_books)


async def store(shop: Shop, event: object, webhook_id: str = "") -> str:
    """What a process stored that died before it could handle it."""
    webhook_id = webhook_id or f"msg_{uuid4().hex}"
    body = event if isinstance(event, bytes) else json.dumps(event).encode()
    row = stored.Webhook("sandbox", webhook_id, body)
    async with shop.database.primary.transaction() as tx:
        await stored.insert_webhooks(tx, [row], lease=webhooks.FIRST_WAIT * 0)
    return webhook_id


async def is_due(books: Books, webhook_id: str) -> None:
    await books.rows(
        "update webhook_events set next_attempt_at = now() where webhook_id = $1", webhook_id
    )


async def test_one_that_comes_before_its_payment_is_kept_until_it_is_there(
    lab_shop: Shop, lab_books: Books
) -> None:
    payment = await claimed(lab_shop, lab_books)
    early = payment | {"payment_id": uuid4()}
    webhook_id = await store(lab_shop, charge_event(early, "approved"))
    assert await webhooks.run_once(lab_shop) == 1
    (row,) = await rows_of(lab_books, webhook_id)
    assert (row["state"], row["attempt_count"]) == ("waiting", 1)
    assert await webhooks.run_once(lab_shop) == 0, "not again at once"
    await renamed(lab_books, payment, early["payment_id"])
    await is_due(lab_books, webhook_id)
    assert await webhooks.run_once(lab_shop) == 1
    assert await state_of(lab_books, early) == "SUCCESS"
    (row,) = await rows_of(lab_books, webhook_id)
    assert row["state"] == "handled"
    await renamed(lab_books, early, payment["payment_id"])


async def renamed(books: Books, payment: dict[str, Any], payment_id: UUID) -> None:
    """The payment under another id, in all that names it."""
    for sql in (
        "update payments set payment_id = $2 where payment_id = $1",
        "update idempotency_keys set subject_id = $2 where subject_id = $1",
        "update ledger_transfers set cause_id = $2 where cause_id = $1",
    ):
        await books.rows(sql, payment["payment_id"], payment_id)


async def test_one_whose_payment_never_comes_is_given_up_after_days_with_a_word(
    lab_shop: Shop, lab_books: Books
) -> None:
    stray = {"payment_id": uuid4(), "amount_minor": 100, "currency": "USD"}
    webhook_id = await store(lab_shop, charge_event(stray, "approved"))
    await lab_books.rows(
        "update webhook_events set received_at = now() - interval '73 hours' where webhook_id = $1",
        webhook_id,
    )
    with capture_logs() as logs:
        await webhooks.run_once(lab_shop)
    (row,) = await rows_of(lab_books, webhook_id)
    assert row["state"] == "ignored"
    assert "webhook without a payment" in [line["event"] for line in logs]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 10_000,
        b'{"type":"charge.approved","data":{}}',
        b'{"type":"customer.created","data":{"charge_id":"c","charge_key":"'
        + b'0' * 8 + b'-0000-4000-8000-' + b'0' * 12
        + b'","status":"approved","amount_minor":1,"currency":"USD"}}',
        b'{"type":"charge.approved","data":{"charge_id":"c","charge_key":"not an id",'
        b'"status":"approved","amount_minor":1,"currency":"USD"}}',
        b'{"type":"charge.approved","data":{"charge_id":"c\\u0000","charge_key":"'
        + b'0' * 8 + b'-0000-4000-8000-' + b'0' * 12
        + b'","status":"approved","amount_minor":1e400,"currency":"USD"}}',
    ],
    ids=lambda payload: payload[:12].decode("latin-1"),
)  # fmt: skip
async def test_what_says_nothing_of_a_payment_is_ignored(
    payload: bytes, lab_shop: Shop, lab_books: Books
) -> None:
    webhook_id = await store(lab_shop, payload)
    await webhooks.run_once(lab_shop)
    (row,) = await rows_of(lab_books, webhook_id)
    assert (row["state"], bytes(row["payload"])) == ("ignored", payload)


async def test_several_workers_handle_each_once(lab_shop: Shop, lab_books: Books) -> None:
    made = [await claimed(lab_shop, lab_books) for _ in range(6)]
    for payment in made:
        await store(lab_shop, charge_event(payment, "approved"))
    found = await asyncio.gather(*(webhooks.run_once(lab_shop) for _ in range(4)))
    assert sum(found) == 6
    assert {await state_of(lab_books, payment) for payment in made} == {"SUCCESS"}
    assert await lab_books.broken_rules() == []


async def test_one_that_can_not_be_booked_does_not_keep_the_others_waiting(
    lab_shop: Shop, lab_books: Books
) -> None:
    stuck, fine = await claimed(lab_shop, lab_books), await claimed(lab_shop, lab_books)
    await lab_books.rows(
        "insert into ledger_transfers (debit_account, credit_account, amount_minor, currency,"
        " cause, cause_id) values ('provider_clearing', 'sales', 1, 'USD', 'payment_captured', $1)",
        stuck["payment_id"],
    )
    webhook_id = await store(lab_shop, charge_event(stuck, "approved"))
    await store(lab_shop, charge_event(fine, "approved"))
    with capture_logs() as logs:  # to render a traceback for people takes longer than a deadline
        assert await webhooks.run_once(lab_shop) == 2
    assert [line["event"] for line in logs if line["log_level"] == "error"] == [
        "webhook can not be handled"
    ]
    assert await state_of(lab_books, fine) == "SUCCESS"
    (row,) = await rows_of(lab_books, webhook_id)
    assert row["state"] == "waiting"
    await lab_books.rows("delete from ledger_transfers where cause_id = $1", stuck["payment_id"])
    await is_due(lab_books, webhook_id)
    await webhooks.run_once(lab_shop)
    assert await state_of(lab_books, stuck) == "SUCCESS"


async def test_old_ones_are_dropped_and_what_waits_is_not(lab_shop: Shop, lab_books: Books) -> None:
    payment = await claimed(lab_shop, lab_books)
    old = await store(lab_shop, charge_event(payment, "approved"))
    await webhooks.run_once(lab_shop)
    stray = {"payment_id": uuid4(), "amount_minor": 100, "currency": "USD"}
    waits = await store(lab_shop, charge_event(stray, "approved"))
    await lab_books.rows(
        "update webhook_events set next_attempt_at = now() + interval '1 hour',"
        " received_at = now() - interval '8 days', handled_at = handled_at - interval '8 days'"
    )
    assert await webhooks.run_once(lab_shop) == 0
    assert await rows_of(lab_books, old) == []
    assert len(await rows_of(lab_books, waits)) == 1
    await lab_books.rows("delete from webhook_events where webhook_id = $1", waits)


async def test_a_full_backlog_takes_no_more_and_says_when_to_come_back(
    served: Sender, lab_shop: Shop, lab_books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "BACKLOG_MAX", 2)
    strays = [{"payment_id": uuid4(), "amount_minor": 1, "currency": "USD"} for _ in range(3)]
    statuses = [(await served.send(charge_event(one, "approved"))).status_code for one in strays]
    assert statuses == [202, 202, 503]
    await lab_books.rows("delete from webhook_events where state = 'waiting'")


async def test_what_is_stored_is_handled_by_the_worker_of_the_stack(
    shop: Shop, books: Books
) -> None:
    """Stored by a process that was killed before it could go on."""
    payment = await claimed(shop, books)
    await store(shop, charge_event(payment, "approved"))
    await becomes(books, payment, "SUCCESS")


# Amounts that are not ours


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"amount_minor": 1}, "approved"),
        ({"amount_minor": 10**12}, "approved"),
        ({"currency": "EUR"}, "approved"),
        ({"currency": "usd"}, "approved"),
        ({"amount_minor": 1}, "declined"),
        ({"amount_minor": 1}, "pending"),
    ],
)
async def test_another_amount_or_currency_is_held_for_review_and_never_booked(
    changed: dict[str, Any], status: str, lab_shop: Shop, lab_books: Books
) -> None:
    """Experiment 27, by webhook."""
    payment = await claimed(lab_shop, lab_books)
    event = charge_event(payment, status, **changed)
    with capture_logs() as logs:
        for _ in range(3):
            await store(lab_shop, event)
            await webhooks.run_once(lab_shop)
    assert await state_of(lab_books, payment) == "UNKNOWN"
    assert await lab_books.transfers(payment["payment_id"]) == []
    sql = "select * from payment_reviews where subject_id = $1"
    (review,) = await lab_books.rows(sql, payment["payment_id"])
    seen = (review["seen_minor"], review["seen_currency"])
    data = event["data"]
    assert isinstance(data, dict)
    assert seen == (data["amount_minor"], data["currency"])
    assert review["source"] == "webhook"
    assert [line["event"] for line in logs if line["log_level"] == "error"] == [
        "payment needs review"
    ]
    told = "select count(*) from outbox where aggregate_id = $1 and name = 'payment_needs_review'"
    assert await lab_books.value(told, str(payment["payment_id"])) == 1


async def test_a_success_stays_one_when_another_amount_is_told_later(
    lab_shop: Shop, lab_books: Books
) -> None:
    payment = await claimed(lab_shop, lab_books)
    await store(lab_shop, charge_event(payment, "approved"))
    await store(lab_shop, charge_event(payment, "approved", amount_minor=1))
    await webhooks.run_once(lab_shop)
    await webhooks.run_once(lab_shop)
    sql = "select count(*) from payment_reviews where subject_id = $1"
    assert await lab_books.value(sql, payment["payment_id"]) == 1
    assert len(await lab_books.transfers(payment["payment_id"])) <= 1


async def test_the_operator_is_shown_what_nobody_has_resolved(
    shop: Shop, books: Books, http: httpx.AsyncClient, stack: RunningStack, sender: Sender
) -> None:
    payments = [await claimed(shop, books) for _ in range(3)]
    for payment in payments:
        await sender.send(charge_event(payment, "approved", amount_minor=7))
        await becomes(books, payment, "UNKNOWN")
    assert (await http.get("/operator/payment-reviews")).status_code == 401
    operator = {"authorization": f"Bearer {stack.secret('operator_token')}"}
    found: list[dict[str, Any]] = []
    path, cursor = "/operator/payment-reviews?limit=2", ""
    while True:
        answer = await http.get(path + cursor, headers=operator)
        assert answer.status_code == 200
        found += answer.json()["items"]
        if answer.json()["next_cursor"] is None:
            break
        cursor = f"&cursor={answer.json()['next_cursor']}"
    ours = [row for row in found if row["subject_id"] in [str(p["payment_id"]) for p in payments]]
    assert [row["subject_id"] for row in ours] == [str(p["payment_id"]) for p in payments]
    assert ours[0]["seen"] == {"amount_minor": 7, "currency": "USD"}
    assert ours[0]["expected"] == {"amount_minor": 2000, "currency": "USD"}


async def test_the_operator_resolves_a_review_once_with_a_word(
    shop: Shop, books: Books, http: httpx.AsyncClient, stack: RunningStack, sender: Sender
) -> None:
    payment = await claimed(shop, books)
    await sender.send(charge_event(payment, "approved", amount_minor=7))
    await becomes(books, payment, "UNKNOWN")
    sql = "select payment_review_id from payment_reviews where subject_id = $1"
    review_id = await books.value(sql, payment["payment_id"])
    path = f"/operator/payment-reviews/{review_id}/resolution"
    said = {"resolution": "The provider took it back."}
    assert (await http.put(path, json=said)).status_code == 401
    operator = {"authorization": f"Bearer {stack.secret('operator_token')}"}
    assert (await http.put(path, json={}, headers=operator)).status_code == 422
    nobodys = f"/operator/payment-reviews/{uuid4()}/resolution"
    assert (await http.put(nobodys, json=said, headers=operator)).status_code == 404
    first, again = [await http.put(path, json=said, headers=operator) for _ in range(2)]
    assert (first.status_code, again.status_code) == (200, 200), first.text
    assert first.json() == again.json()
    assert first.json()["resolved_at"] is not None
    assert first.json()["resolution"] == said["resolution"]
    # The same word of the provider again opens nothing anew, and nothing is booked.
    await sender.send(charge_event(payment, "approved", amount_minor=7))
    await until(lambda: is_quiet(books, payment), within_s=PATIENT_S, what="it is handled")
    cursor = UUID(int=UUID(str(review_id)).int - 1)
    target = f"/operator/payment-reviews?limit=100&cursor={cursor}"
    shown = (await http.get(target, headers=operator)).json()["items"]
    assert str(review_id) not in [row["payment_review_id"] for row in shown]
    assert await books.transfers(payment["payment_id"]) == []


async def is_quiet(books: Books, payment: dict[str, Any]) -> bool:
    """Whether every webhook that speaks of it is handled."""
    sql = """
        select count(*) from webhook_events
        where state = 'waiting' and position($1 in convert_from(payload, 'utf8')) > 0
    """
    return bool(await books.value(sql, str(payment["payment_id"])) == 0)
