"""Orphans: charges that nobody asked for go back, once, and nothing that is in flight does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from infra.local.addresses import free_port
from services.business import orphans, provider_books, reconcile
from services.business.payments import charge_order
from services.business.provider_proofs import TAKEN, prove_books
from services.business.shop import open_shop
from services.data.orphan_charges import Orphan, select_orphans
from services.data.payments import Payment
from services.deadline import Deadline
from services.problems import Unavailable
from tests.own_books import OwnBooks, own_books
from tests.running_stack import RunningStack

AT_ONCE = timedelta(0)


@pytest_asyncio.fixture(scope="module")
async def own(
    stack: RunningStack, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[OwnBooks]:
    async with own_books(stack, tmp_path_factory.mktemp("orphans")) as opened:
        yield opened


async def look(own: OwnBooks, grace: timedelta = AT_ONCE) -> int:
    """A round whose time has come, for the walk and for what is to be given back."""
    await own.books.rows("update provider_walks set next_walk_at = now()")
    await own.books.rows("update orphan_charges set next_attempt_at = now()")
    return await orphans.run_once(own.shop, grace=grace)


async def orphan(own: OwnBooks, charge_key: object) -> dict[str, Any] | None:
    rows = await own.books.rows(
        "select * from orphan_charges where charge_key = $1", str(charge_key)
    )
    return dict(rows[0]) if rows else None


async def state(own: OwnBooks, charge_key: object) -> str | None:
    found = await orphan(own, charge_key)
    return None if found is None else str(found["state"])


async def events(own: OwnBooks, charge_key: object) -> list[str]:
    rows = await own.books.rows(
        "select name from outbox where aggregate_id = $1 and kind = 'event' order by outbox_id",
        str(charge_key),
    )
    return [row["name"] for row in rows if row["name"].startswith("orphan")]


async def given_up(own: OwnBooks) -> Payment:
    """A payment that never arrived, as reconcile came to believe."""
    payment = await own.pay("tok_error")
    await own.books.rows(
        "update payments set state = 'ERRORED', next_check_at = now() + interval '1 day'"
        " where payment_id = $1", payment.payment_id
    )  # fmt: skip
    await own.books.rows(
        "update stock_holds set state = 'held', paying_until = null where order_id = $1",
        payment.order_id,
    )
    return payment


async def test_a_charge_behind_our_back_goes_back_and_the_books_agree(own: OwnBooks) -> None:
    await own.charge("stranger")
    assert [one.reason for one in await own.differences()] == ["not ours"]
    transfers = await own.books.value("select count(*) from ledger_transfers")
    with capture_logs() as logs:
        assert await look(own) == 1
        assert await look(own) == 0
    told = [line for line in logs if line["event"] == "charge without a payment"]
    assert [(line["log_level"], line["charge_key"]) for line in told] == [("error", "stranger")]
    assert (await own.at_provider("stranger"))["refunded_minor"] == 700
    assert await state(own, "stranger") == "returned"
    assert await events(own, "stranger") == ["orphan_charge_found", "orphan_charge_returned"]
    assert own.shop.counts.orphans_found_total >= 1
    assert own.shop.counts.orphans_returned_total >= 1
    assert await own.books.value("select count(*) from ledger_transfers") == transfers
    assert await own.differences() == []


async def test_an_authorisation_that_nobody_asked_for_is_voided(own: OwnBooks) -> None:
    await own.charge("blocked", capture=False)
    await look(own)
    assert (await own.at_provider("blocked"))["voided"]
    assert await state(own, "blocked") == "returned"
    assert await own.differences() == []


async def test_what_is_captured_in_part_is_refunded_as_far_as_it_is_captured(own: OwnBooks) -> None:
    await own.charge("partly", capture=False)
    for path, key, amount in (("captures", "c1", 400), ("refunds", "r1", 150)):
        body = {"operation_key": key, "amount_minor": amount}
        (await own.http.post(f"/charges/partly/{path}", json=body)).raise_for_status()
    await look(own)
    assert (await own.at_provider("partly"))["refunded_minor"] == 400
    assert await own.differences() == []


async def test_a_charge_that_arrives_after_it_was_given_up_goes_back(own: OwnBooks) -> None:
    """The customer may have paid by another card meanwhile; this money is nobody's."""
    payment = await given_up(own)
    outcome = await own.shop.provider.charge(
        replace(charge_order(payment), payment_method="tok_approve"), Deadline.after(5)
    )
    assert type(outcome).__name__ == "Approved"
    assert [one.reason for one in await own.differences()] == ["contradicted"]
    await look(own)
    assert (await own.at_provider(payment.payment_id))["refunded_minor"] == payment.amount_minor
    await own.settled(payment.payment_id, "ERRORED")
    assert await own.differences() == []
    assert await own.books.broken_rules() == []


async def test_a_payment_in_flight_is_never_touched(own: OwnBooks) -> None:
    """Whatever state it is in before it is final, and when it has succeeded."""
    lost = await own.pay("tok_drop_after_charge")
    paid = await own.pay()
    for unsettled in ("UNKNOWN", "PENDING", "INIT"):
        await own.books.rows(
            "update payments set state = $2, next_check_at = now() + interval '1 day'"
            " where payment_id = $1", lost.payment_id, unsettled
        )  # fmt: skip
        await look(own)
        for payment in (lost, paid):
            assert (await own.at_provider(payment.payment_id))["refunded_minor"] == 0
            assert await orphan(own, payment.payment_id) is None
    await own.books.rows(
        "update payments set next_check_at = now() where payment_id = $1", lost.payment_id
    )
    await reconcile.run_once(own.shop)
    await own.settled(lost.payment_id, "SUCCESS")


async def test_a_charge_that_has_just_come_is_left_alone_until_the_next_walk(
    own: OwnBooks,
) -> None:
    await own.charge("young")
    await look(own, grace=orphans.GRACE)
    assert await orphan(own, "young") is None
    await look(own)  # the walk goes back far enough to see it again
    assert await state(own, "young") == "returned"


async def test_several_workers_give_it_back_once(own: OwnBooks) -> None:
    keys = [f"race-{number}" for number in range(8)]
    await asyncio.gather(*(own.charge(key) for key in keys))
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    before = own.shop.counts.orphans_found_total
    await asyncio.gather(*(orphans.walk(own.shop, epoch, grace=AT_ONCE) for _ in range(4)))
    assert own.shop.counts.orphans_found_total == before + 8
    found = [one for key in keys if (one := await found_orphan(own, key)) is not None]
    await asyncio.gather(*(orphans.give_back(own.shop, one) for one in found * 4))
    for key in keys:
        assert (await own.at_provider(key))["refunded_minor"] == 700
        assert await events(own, key) == ["orphan_charge_found", "orphan_charge_returned"]
    listed = (await own.http.get("/operations", params={"limit": "1000"})).json()["items"]
    assert sorted(one["charge_key"] for one in listed if one["charge_key"] in keys) == keys


async def found_orphan(own: OwnBooks, key: str) -> Orphan | None:
    return (await select_orphans(own.shop.database.primary, [key])).get(key)


async def test_a_refund_whose_answer_is_lost_is_found_out_and_not_made_again(own: OwnBooks) -> None:
    await own.charge("lossy", "tok_operations_drop")
    await look(own)
    assert await state(own, "lossy") == "found"
    proofs = await prove_books(own.shop.provider, own.shop.database.primary, timeout_s=5)
    assert [p.broken for p in proofs if p.rule.sentence == TAKEN] == [[]]
    await look(own)
    assert await state(own, "lossy") == "returned"
    assert (await own.at_provider("lossy"))["refunded_minor"] == 700


async def test_one_that_is_not_given_back_yet_is_no_agreement_but_written_down(
    own: OwnBooks,
) -> None:
    await own.charge("stuck", "tok_operations_hang")
    await look(own)
    assert [(one.reason, one.in_flight) for one in await own.differences()] == [
        ("given back", False)
    ]
    proofs = await prove_books(own.shop.provider, own.shop.database.primary, timeout_s=5)
    assert [proof for proof in proofs if proof.broken] == []
    own.change_theirs(
        "update charges set payment_method = 'tok_approve' where charge_key = 'stuck'"
    )
    await look(own)
    assert await own.differences() == []


async def test_one_that_is_not_decided_is_waited_for(own: OwnBooks) -> None:
    (await own.http.put("/behaviour", json={"pending_ms": 600_000})).raise_for_status()
    await own.charge("later", "tok_pending")
    await own.charge("never", "tok_pending_decline")
    (await own.http.put("/behaviour", json={})).raise_for_status()
    await look(own)
    assert (await state(own, "later"), await state(own, "never")) == ("found", "found")
    own.change_theirs("update charges set becomes_at_ms = 1 where charge_key in ('later', 'never')")
    await look(own)
    assert (await state(own, "later"), await state(own, "never")) == ("returned", "returned")
    assert (await own.at_provider("later"))["refunded_minor"] == 700
    assert await own.differences() == []


async def test_a_declined_charge_is_no_orphan(own: OwnBooks) -> None:
    await own.charge("refused", "tok_decline")
    await look(own)
    assert await orphan(own, "refused") is None


async def test_the_walk_goes_on_where_it_ended_and_not_where_it_failed(
    own: OwnBooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider_books, "PAUSE_S", 0.0)
    await look(own)
    until = await own.books.value("select walked_until from provider_walks")
    nobody = own.shop.settings.model_copy(
        update={"provider_url": f"http://127.0.0.1:{free_port()}"}
    )
    await own.charge("meanwhile")
    async with open_shop(nobody) as alone:
        await own.books.rows("update provider_walks set next_walk_at = now()")
        with pytest.raises(Unavailable):
            await orphans.run_once(alone, grace=AT_ONCE)
        assert await own.books.value("select walked_until from provider_walks") == until
    await look(own)
    assert await own.books.value("select walked_until from provider_walks") > until
    assert await state(own, "meanwhile") == "returned"


async def test_where_others_charge_by_the_same_account_nothing_is_touched(own: OwnBooks) -> None:
    key = uuid4().hex
    await own.charge(key)
    off = replace(
        own.shop, settings=own.shop.settings.model_copy(update={"return_orphan_charges": False})
    )
    await own.books.rows("update provider_walks set next_walk_at = now()")
    assert await orphans.run_once(off, grace=AT_ONCE) == 0
    assert await orphan(own, key) is None
    await look(own)
