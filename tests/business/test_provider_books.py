"""The provider's books beside ours: every way to differ is planted on either side, and found."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple, get_args

import asyncpg
import pytest
import pytest_asyncio

from infra.local.addresses import free_port
from infra.reconcile import summary
from services.business import provider_books, reconcile, rollups
from services.business.matching import Reason
from services.business.provider import ChargeLine, Listed, PaymentProvider, Unknown
from services.business.provider_books import BooksUnanswered
from services.business.provider_proofs import (
    ONCE,
    OPERATIONS,
    PROVIDER_RULES,
    SAME,
    TAKEN,
    THERE,
    prove_books,
)
from services.business.providers import sandbox_adapter
from services.business.shop import open_shop
from services.data import booked
from services.deadline import Deadline
from tests.business.test_sandbox import SECRET
from tests.own_books import OwnBooks, own_books
from tests.running_stack import RunningStack


@pytest_asyncio.fixture(scope="module")
async def own(
    stack: RunningStack, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[OwnBooks]:
    """Payments and operations of every kind, which agree."""
    async with own_books(stack, tmp_path_factory.mktemp("own")) as opened:
        await opened.pay()
        await opened.pay("tok_decline")
        partly = await opened.pay(capture="manual")
        await opened.do(partly, "capture", 500)
        await opened.do(partly, "capture", 700)
        await opened.do(partly, "refund", 300)
        await opened.do(await opened.pay(capture="manual"), "void")
        await opened.do(await opened.pay(), "refund")
        await opened.do(await opened.pay("tok_operations_decline"), "refund", 100)
        yield opened


class Planted(NamedTuple):
    """A difference. ours: SQL in our books, rolled back afterwards, without these constraints;
    theirs: SQL in the provider's file, and what undoes it."""

    reason: Reason
    rule: str
    ours: str = ""
    without: tuple[str, ...] = ()
    theirs: str = ""
    undo: str = ""
    where: str = ""


ANY = "where state = 'SUCCESS' and capture_method = 'automatic' and refunded_minor = 0"
SUMS = ("payments.payments_captured_range", "payments.payments_automatic_is_captured",
        "payments.payments_captured_once_successful",
        "payments.payments_voided_has_no_captures")  # fmt: skip
PAYMENT_FKEY = ("payment_operations.payment_operations_payment_fkey",)

PLANTED = (
    Planted("not ours", TAKEN, "delete from payments", PAYMENT_FKEY, where=ANY),
    Planted(
        "not ours", TAKEN, "update payments set payment_id = uuidv7()", PAYMENT_FKEY, where=ANY),
    Planted("not there", THERE, "update payments set payment_id = uuidv7()", PAYMENT_FKEY,
        where=ANY),
    Planted("contradicted", TAKEN, "update payments set state = 'ERRORED'", SUMS, where=ANY),
    Planted("contradicted", TAKEN, "update payments set state = 'FAILED'", SUMS, where=ANY),
    Planted("amount", SAME,
        "update payments set amount_minor = 2001, captured_minor = 2001", where=ANY),
    Planted("currency", SAME, "update payments set currency = 'EUR'", where=ANY),
    Planted("status", SAME,
        theirs="update charges set first_status = 'declined' where sequence = 1",
        undo="update charges set first_status = 'approved' where sequence = 1"),
    Planted("reference", SAME, "update payments set charge_id = 'ch_other'", where=ANY),
    Planted("captured", SAME, "update payments set captured_minor = 1999", SUMS, where=ANY),
    Planted("refunded", SAME, "update payments set refunded_minor = 5", SUMS, where=ANY),
    Planted("voided", SAME, "update payments set voided_at = now()", SUMS, where=ANY),
    Planted("kind", SAME, "update payments set capture_method = 'manual'", SUMS, where=ANY),
    Planted("amount", SAME, theirs="update charges set amount_minor = 1 where sequence = 1",
        undo="update charges set amount_minor = 2000 where sequence = 1"),
    Planted("currency", SAME, theirs="update charges set currency = 'EUR' where sequence = 1",
        undo="update charges set currency = 'USD' where sequence = 1"),
    Planted("not there", THERE,
        theirs="update charges set charge_key = 'x' || charge_key where sequence = 1",
        undo="update charges set charge_key = substr(charge_key, 2) where sequence = 1"),
    Planted("not ours", OPERATIONS, "delete from payment_operations where kind = 'refund'"),
    Planted("not ours", OPERATIONS,
        "update payment_operations set operation_id = uuidv7() where kind = 'capture'"),
    Planted("not there", OPERATIONS,
        "update payment_operations set operation_id = uuidv7() where kind = 'void'"),
    Planted("contradicted", OPERATIONS,
        "update payment_operations set state = 'ERRORED' where kind = 'refund'"),
    Planted("amount", OPERATIONS,
        "update payment_operations set amount_minor = 1 where kind = 'capture'"),
    Planted("currency", OPERATIONS,
        "update payment_operations set currency = 'EUR' where kind = 'capture'"),
    Planted("kind", OPERATIONS,
        "update payment_operations set kind = 'refund' where kind = 'capture'"),
    Planted("payment", OPERATIONS,
        "update payment_operations set (customer_id, payment_id) = (select customer_id, payment_id"
        " from payments where captured_minor = 2000 limit 1) where kind = 'capture'"),
    Planted("reference", OPERATIONS,
        "update payment_operations set provider_reference = 'cp_x' where kind = 'capture'"),
    Planted("status", OPERATIONS,
        "update payment_operations set state = 'SUCCESS' where state = 'FAILED'"),
    Planted("amount", OPERATIONS,
        theirs="update operations set amount_minor = amount_minor + 1 where sequence = 1",
        undo="update operations set amount_minor = amount_minor - 1 where sequence = 1"),
    Planted("captured", SAME,
        theirs="update operations set amount_minor = amount_minor + 1 where sequence = 1",
        undo="update operations set amount_minor = amount_minor - 1 where sequence = 1"),
)  # fmt: skip


async def planted(own: OwnBooks, one: Planted) -> tuple[set[Reason], set[str]]:
    """The reasons that the report gives, and the rules that `prove` finds broken."""
    connection = await asyncpg.connect(own.database.superuser_dsn())
    try:
        transaction = connection.transaction()
        await transaction.start()
        for place in one.without:
            table, _, constraint = place.partition(".")
            await connection.execute(f"alter table {table} drop constraint {constraint}")
        if one.ours:
            done = await connection.execute(f"{one.ours} {one.where}")
            assert not done.endswith(" 0"), f"nothing was planted: {done}"
        try:
            if one.theirs:
                assert own.change_theirs(one.theirs) > 0
            reader: Any = connection
            found = {x.reason for x in await own.differences(reader) if not x.in_flight}
            proofs = await prove_books(own.shop.provider, reader, timeout_s=5)
            return found, {proof.rule.sentence for proof in proofs if proof.broken}
        finally:
            if one.undo:
                own.change_theirs(one.undo)
            await transaction.rollback()
    finally:
        await connection.close()


async def test_books_that_agree_have_no_difference_and_their_sums_are_the_same(
    own: OwnBooks,
) -> None:
    assert await own.differences() == []
    sums = own.comparison.sums
    assert sums["charge", "matched", "USD"].count == 6
    # 2000, and 2000 of which nothing was given back; 1200 - 300; and nothing of those given back.
    assert sums["provider", "taken", "USD"].amount_minor == 4900
    assert sums["payment", "booked", "USD"].amount_minor == 4900
    assert sums["operation", "matched", "USD"].count == 6
    assert list(summary(own.comparison, False))[-1] == "0 differences, 0 in flight"
    proofs = await prove_books(own.shop.provider, own.shop.database.primary, timeout_s=5)
    assert [proof.broken for proof in proofs] == [[]] * len(PROVIDER_RULES)
    assert all(proof.checked_count == 6 for proof in proofs)


@pytest.mark.parametrize("one", PLANTED, ids=lambda one: f"{one.reason}: {one.ours or one.theirs}")
async def test_every_difference_that_is_planted_is_found(own: OwnBooks, one: Planted) -> None:
    reasons, broken = await planted(own, one)
    assert one.reason in reasons
    assert one.rule in broken


def test_every_rule_and_every_reason_is_planted() -> None:
    """But for `twice`, which a ledger can not have, and `given back`, which is no difference."""
    assert {one.rule for one in PLANTED} | {ONCE} == {rule.sentence for rule in PROVIDER_RULES}
    assert {one.reason for one in PLANTED} | {"twice", "given back"} == set(get_args(Reason))


class Repeats:
    """A provider that has its first charge twice."""

    def __init__(self, provider: PaymentProvider) -> None:
        self._provider = provider

    async def list_charges(
        self, since: datetime, cursor: str | None, deadline: Deadline
    ) -> Listed[ChargeLine] | Unknown:
        listed = await self._provider.list_charges(since, cursor, deadline)
        assert isinstance(listed, Listed)
        return Listed([listed.lines[0], *listed.lines], listed.next_cursor)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._provider, name)


async def test_a_charge_that_is_there_twice_is_found(own: OwnBooks) -> None:
    twice = replace(own.shop, provider=Repeats(own.shop.provider))
    assert [one.reason for one in await own.differences(shop=twice)] == ["twice"]
    proofs = await prove_books(twice.provider, own.shop.database.primary, timeout_s=5)
    assert [proof.rule.sentence for proof in proofs if proof.broken] == [ONCE]


async def test_what_is_in_flight_is_listed_apart(own: OwnBooks) -> None:
    async with behaving(own, pending_ms=600_000):
        waiting = await own.pay("tok_pending")
    lost = await own.pay("tok_drop_after_charge")
    never = await own.pay("tok_error")
    found = await own.differences()
    of = {one.key: (one.reason, one.in_flight) for one in found}
    assert of == {
        str(waiting.payment_id): ("status", True),
        str(lost.payment_id): ("status", True),
        str(never.payment_id): ("not there", True),
    }
    assert (own.comparison.differences, own.comparison.in_flight) == (0, 3)
    for payment in (waiting, lost):
        own.change_theirs(
            f"update charges set first_status = 'approved', becomes = null, becomes_at_ms = null"  # noqa: S608  # an id of ours
            f" where charge_key = '{payment.payment_id}'"
        )
    await own.books.rows(
        "update payments set next_check_at = now(), created_at = now() - interval '1 hour'"
        " where state in ('PENDING', 'UNKNOWN')"
    )
    await reconcile.run_once(own.shop)
    assert await own.differences() == []


async def test_what_has_changed_within_the_grace_is_in_flight_but_no_other_amount(
    own: OwnBooks,
) -> None:
    payment = await own.pay()
    key = payment.payment_id
    await own.books.rows("update payments set charge_id = 'ch_x' where payment_id = $1", key)
    (young,) = await own.differences(grace_s=60)
    assert (young.reason, young.in_flight) == ("reference", True)
    (now,) = await own.differences()
    assert not now.in_flight
    await own.books.rows(
        "update payments set charge_id = $2, currency = 'EUR' where payment_id = $1",
        key, payment.charge_id,
    )  # fmt: skip
    (other,) = await own.differences(grace_s=60)
    assert (other.reason, other.in_flight) == ("currency", False)
    await own.books.rows("update payments set currency = 'USD' where payment_id = $1", key)


async def test_lists_of_many_pages_are_read_to_their_end(
    own: OwnBooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox_adapter, "LIST_LINES", 2)
    monkeypatch.setattr(booked, "ROWS", 2)
    await own.charge("of nobody".replace(" ", "-"))
    assert [one.reason for one in await own.differences()] == ["not ours"]
    own.change_theirs("delete from charges where charge_key = 'of-nobody'")
    assert await own.differences() == []


async def test_a_provider_that_can_not_be_asked_is_no_agreement(
    own: OwnBooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider_books, "PAUSE_S", 0.0)
    nobody = own.shop.settings.model_copy(
        update={"provider_url": f"http://127.0.0.1:{free_port()}"}
    )
    async with open_shop(nobody) as alone:
        with pytest.raises(BooksUnanswered):
            await own.differences(shop=alone)


async def test_the_command_prints_what_differs_and_says_so_by_its_exit_code(own: OwnBooks) -> None:
    await own.charge("nobodys")
    bad, proved = await asyncio.gather(
        command(own, "reconcile", "--report", "--json"), command(own, "prove")
    )
    rows = [json.loads(line) for line in bad.out.splitlines()]
    assert bad.code == 1
    assert (rows[0]["reason"], rows[0]["key"], rows[0]["amount_minor"]) == (
        "not ours", "nobodys", 700)  # fmt: skip
    assert (rows[-1]["differences"], len(rows)) == (1, 2)
    assert (proved.code, "nobodys" in proved.out) == (1, True), proved
    own.change_theirs("delete from charges where charge_key = 'nobodys'")
    # No worker runs here, and the tests may take longer than prove waits for one.
    await rollups.catch_up(own.shop, timedelta(0))
    await own.books.rows("update outbox set published_at = now() where published_at is null")
    away = {"TERCET_PROVIDER_URL": f"http://127.0.0.1:{free_port()}"}
    good, silent = await asyncio.gather(
        command(own, "reconcile", "--report", "--grace-s", "0"), command(own, "prove", **away)
    )
    assert (good.code, good.out.splitlines()[-1]) == (0, "0 differences, 0 in flight"), good
    assert (silent.code, "could not be asked" in silent.err) == (2, True), silent
    assert "--without-provider" in silent.err


class Said(NamedTuple):
    code: int
    out: str
    err: str


async def command(own: OwnBooks, *words: str, **changes: str) -> Said:
    """`tercet …` on these books."""
    secret = own.database.stack.secret("superuser_password")
    variables = {
        **os.environ,
        **own.database.stack.environment,
        "TERCET_PRIMARY_DSN": own.database.dsn("tercet_app"),
        "TERCET_STANDBY_DSNS": "",
        "TERCET_EVENTS_URL": "",  # the log is another shop's, whose tests write to it
        "TERCET_APP_PASSWORD": secret,
        "TERCET_READ_PASSWORD": secret,
        "TERCET_PROVIDER_URL": f"http://127.0.0.1:{own.provider.port}",
        "TERCET_PROVIDER_SECRET": SECRET,
        **changes,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "infra.cli", *words,
        env=variables, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode is not None
    return Said(process.returncode, out.decode(), err.decode())


@asynccontextmanager
async def behaving(own: OwnBooks, **behaviour: object) -> AsyncIterator[None]:
    (await own.http.put("/behaviour", json=behaviour)).raise_for_status()
    try:
        yield
    finally:
        (await own.http.put("/behaviour", json={})).raise_for_status()
