"""The sandbox's webhooks, hostile ones too, at a whole shop of the test's own: experiments 25, 26,
27.

Access, business and the sandbox are processes; the database is the laboratory's, on which no worker
runs but the test.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from infra.local.addresses import free_port
from services.business import reconcile
from services.business.shop import Shop, open_shop
from tests.faults.waiting import until
from tests.laboratory import OwnDatabase
from tests.security.processes import environment_of, process
from tests.shopping import Books, Customer, ProviderBooks, http_client
from tests.webhooks import Sender, charge_event

PATIENT_S = 15.0


@dataclass
class HostileShop:
    """http: at access. provider: at the sandbox. sender: the test in its place. shop: business
    inside the test, as a worker.
    """

    http: httpx.AsyncClient
    provider: ProviderBooks
    sender: Sender
    shop: Shop
    books: Books

    async def paid(
        self, payment_method: str, **behaviour: object
    ) -> tuple[Customer, dict[str, Any]]:
        """Somebody who has asked to pay, and the answer to it."""
        await self.provider.behave(**behaviour)
        customer = Customer(self.http)
        order_id = await customer.placed({(await self.books.goods()).variant: 1})
        answer = await customer.pay(order_id, payment_method)
        assert answer.status_code in (201, 202), answer.text
        return customer, answer.json()

    async def told(self, payment_id: str) -> list[dict[str, Any]]:
        """The webhooks of a payment, as the sandbox knows them."""
        answer = await self.provider.http.get("/webhooks", params={"charge_key": payment_id})
        items: list[dict[str, Any]] = answer.json()["items"]
        return items

    async def all_told(self, payment_id: str, count: int) -> list[dict[str, Any]]:
        """They, once all are sent and all that were stored are handled."""

        async def is_over() -> bool:
            items = await self.told(payment_id)
            return len(items) == count and all(item["ended"] for item in items)

        await until(is_over, within_s=PATIENT_S, what="every webhook is sent")
        await self.all_handled()
        return await self.told(payment_id)

    async def all_handled(self) -> None:
        async def is_over() -> bool:
            waiting = "select count(*) from webhook_events where state = 'waiting'"
            return bool(await self.books.value(waiting) == 0)

        await until(is_over, within_s=PATIENT_S, what="every webhook is handled")

    async def state(self, payment_id: str) -> str:
        sql = "select state from payments where payment_id = $1"
        return str(await self.books.value(sql, UUID(payment_id)))

    async def becomes(self, payment_id: str, state: str) -> None:
        async def is_there() -> bool:
            return await self.state(payment_id) == state

        await until(is_there, within_s=PATIENT_S, what=f"the payment is {state}")

    async def moves(self, payment_id: str) -> list[str]:
        """What the payment has become, one after another, by its events."""
        sql = (
            "select name from outbox where aggregate_id = $1 and kind = 'event'"
            " and name like 'payment_%' order by outbox_id"
        )
        return [row["name"] for row in await self.books.rows(sql, payment_id)]


@asynccontextmanager
async def hostile_shop(
    laboratory: OwnDatabase, books: Books, folder: Path
) -> AsyncIterator[HostileShop]:
    stack = laboratory.stack
    ports = {name: free_port() for name in ("access", "business", "provider")}
    urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    settings = laboratory.settings(provider_url=urls["provider"], provider_timeout_ms=1000)
    password = stack.secret("superuser_password")
    environment = environment_of(
        stack,
        **{f"TERCET_{name.upper()}_PORT": str(port) for name, port in ports.items()},
        **{f"TERCET_{name.upper()}_INTERNAL_PORT": "0" for name in ports},
        TERCET_BUSINESS_URL=urls["business"],
        TERCET_PROVIDER_URL=urls["provider"],
        TERCET_PROVIDER_TIMEOUT_MS="1000",
        TERCET_PROVIDER_DATA=str(folder / "provider.sqlite3"),
        TERCET_WEBHOOK_URL=urls["access"] + "/webhooks/sandbox",
        TERCET_PRIMARY_DSN=settings.primary_dsn,
        TERCET_STANDBY_DSNS="",
        TERCET_APP_PASSWORD=password,
        TERCET_READ_PASSWORD=password,
        TERCET_CUSTOMER_RATES="",
        TERCET_POOL_WAIT_MS="3000",
    )
    with ExitStack() as stop:
        for name in ports:
            stop.enter_context(process(name, environment=environment, log=folder / f"{name}.log"))
        bearer = f"Bearer {stack.secret('provider_secret')}"
        async with (
            http_client(urls["access"]) as http,
            http_client(urls["provider"], authorization=bearer) as at_provider,
            open_shop(settings) as shop,
        ):
            await until(lambda: answers(http, "/ready"), within_s=30, what="access is ready")
            await until(lambda: answers(at_provider, "/live"), within_s=30, what="the sandbox")
            sender = Sender(http, stack.secret("webhook_secret"))
            yield HostileShop(http, ProviderBooks(at_provider), sender, shop, books)


async def answers(http: httpx.AsyncClient, path: str) -> bool:
    try:
        return (await http.get(path)).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
async def hostile(
    laboratory: OwnDatabase, lab_books: Books, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[HostileShop]:
    folder = tmp_path_factory.mktemp("hostile")
    await lab_books.rows("delete from webhook_events where state = 'waiting'")
    async with hostile_shop(laboratory, lab_books, folder) as opened:
        yield opened


async def test_what_the_answer_did_not_say_is_told_by_a_webhook(hostile: HostileShop) -> None:
    """It comes before the API answer, which is later than anybody waits."""
    _, payment = await hostile.paid("tok_slow", delay_ms=1500)
    assert payment["state"] in ("UNKNOWN", "SUCCESS")
    await hostile.becomes(payment["payment_id"], "SUCCESS")
    (item,) = await hostile.all_told(payment["payment_id"], 1)
    assert (item["type"], item["status"], item["attempts"]) == ("charge.approved", 202, 1)
    assert len(await hostile.books.transfers(payment["payment_id"])) == 1


async def test_an_asynchronous_decline_frees_the_order_to_be_paid_again(
    hostile: HostileShop,
) -> None:
    customer, payment = await hostile.paid("tok_pending_decline", pending_ms=300)
    await hostile.becomes(payment["payment_id"], "FAILED")
    assert (await customer.get(f"/payments/{payment['payment_id']}")).json()[
        "decline_code"
    ] == "card_declined"
    assert (await customer.pay(payment["order_id"])).status_code == 201


@pytest.mark.parametrize("token", ["tok_approve", "tok_pending", "tok_pending_decline"])
@pytest.mark.parametrize("mode", ["duplicate", "reordered", "late", "forged"])
async def test_however_they_come_each_payment_is_booked_once_and_never_goes_back(
    mode: str, token: str, hostile: HostileShop
) -> None:
    """Experiment 25: illegal moves 0, one ledger entry each; 26: forgeries do nothing."""
    _, payment = await hostile.paid(token, webhooks=mode, webhook_delay_ms=400, pending_ms=200)
    payment_id = payment["payment_id"]
    changes = 1 if token == "tok_approve" else 2
    items = await hostile.all_told(payment_id, changes * {"duplicate": 5, "forged": 4}.get(mode, 1))
    ends = "FAILED" if token == "tok_pending_decline" else "SUCCESS"
    assert await hostile.state(payment_id) == ends
    assert len(await hostile.books.transfers(payment_id)) == (ends == "SUCCESS")
    moves = await hostile.moves(payment_id)
    assert moves.count(f"payment_{ends.lower()}") == 1
    assert moves[-1] == f"payment_{ends.lower()}", "there is no move from a final state"
    for item in items:
        expected = 202 if item["forgery"] is None else 401
        assert item["status"] == expected, item
        stored = "select count(*) from webhook_events where webhook_id = $1"
        count = await hostile.books.value(stored, item["webhook_id"])
        assert count == (item["forgery"] is None)
    assert await hostile.books.broken_rules() == []


async def test_one_that_comes_an_hour_late_changes_nothing_any_more(hostile: HostileShop) -> None:
    """By then reconcile has asked."""
    _, payment = await hostile.paid(
        "tok_pending", webhooks="late", webhook_delay_ms=3_600_000, pending_ms=100
    )
    payment_id = payment["payment_id"]
    await hostile.provider.behave()

    async def is_settled() -> bool:
        await hostile.books.rows(
            "update payments set next_check_at = now() where payment_id = $1", UUID(payment_id)
        )
        await reconcile.run_once(hostile.shop)
        return await hostile.state(payment_id) == "SUCCESS"

    await until(is_settled, within_s=PATIENT_S, what="reconcile has settled it")
    assert [item["attempts"] for item in await hostile.told(payment_id)] == [0, 0]
    before = await hostile.moves(payment_id)
    for status in ("pending", "approved"):
        event = await late_event(hostile, payment, status)
        assert event == 202
    await hostile.all_handled()
    assert await hostile.moves(payment_id) == before
    assert len(await hostile.books.transfers(payment_id)) == 1


async def late_event(hostile: HostileShop, payment: dict[str, Any], status: str) -> int:
    """The same webhook as the sandbox will send in an hour: its timestamp is that of sending."""
    row = {"payment_id": payment["payment_id"], **payment["amount"]}
    return (await hostile.sender.send(charge_event(row, status))).status_code


async def test_a_provider_that_sends_none_is_asked(hostile: HostileShop) -> None:
    _, payment = await hostile.paid("tok_drop_after_charge", webhooks="none")
    assert await hostile.told(payment["payment_id"]) == []
    assert payment["state"] == "UNKNOWN"
    await hostile.books.rows(
        "update payments set next_check_at = now() where payment_id = $1",
        UUID(payment["payment_id"]),
    )
    await reconcile.run_once(hostile.shop)
    assert await hostile.state(payment["payment_id"]) == "SUCCESS"


@pytest.mark.parametrize(
    "lie", [{"tells_minor_more": -1}, {"tells_minor_more": 100_000}, {"tells_currency": "EUR"}]
)
async def test_another_amount_in_the_answer_by_webhook_and_when_asked_is_one_review(
    lie: dict[str, object], hostile: HostileShop
) -> None:
    """Experiment 27: 0 posted, whoever says it."""
    _, payment = await hostile.paid("tok_approve", **lie)
    payment_id = payment["payment_id"]
    assert payment["state"] == "UNKNOWN"
    await hostile.all_told(payment_id, 1)
    await hostile.books.rows(
        "update payments set next_check_at = now() where payment_id = $1", UUID(payment_id)
    )
    await reconcile.run_once(hostile.shop)
    assert await hostile.state(payment_id) == "UNKNOWN"
    assert await hostile.books.transfers(payment_id) == []
    sql = "select * from payment_reviews where subject_id = $1"
    (review,) = await hostile.books.rows(sql, UUID(payment_id))
    assert review["expected_minor"] == payment["amount"]["amount_minor"]
    assert await hostile.books.broken_rules() == []


# Next actions


async def test_a_customer_is_sent_to_a_page_and_what_he_decides_there_is_told(
    hostile: HostileShop,
) -> None:
    for decision, ends in (("approve", "SUCCESS"), ("decline", "FAILED")):
        customer, payment = await hostile.paid("tok_challenge")
        assert payment["state"] == "PENDING"
        url = payment["next_action"]["url"]
        assert payment["next_action"]["type"] == "redirect"
        shown = (await customer.get(f"/payments/{payment['payment_id']}")).json()
        assert shown["next_action"]["url"] == url
        async with http_client("") as browser:
            page = await browser.get(url)
            assert (page.status_code, page.headers["content-type"]) == (
                200, "text/html; charset=utf-8",
            )  # fmt: skip
            assert "<form" in page.text
            assert (await browser.post(url, data={"decision": "perhaps"})).status_code == 422
            assert (await browser.post(url, data={"decision": decision})).status_code == 200
            # Only the first counts.
            assert (await browser.post(url, data={"decision": "approve"})).status_code == 404
            assert (await browser.get(url)).status_code == 404
        await hostile.becomes(payment["payment_id"], ends)
        final = (await customer.get(f"/payments/{payment['payment_id']}")).json()
        assert final["next_action"] is None
        assert len(await hostile.books.transfers(payment["payment_id"])) == (ends == "SUCCESS")
        types = [item["type"] for item in await hostile.all_told(payment["payment_id"], 2)]
        assert types == [
            "charge.pending",
            f"charge.{'approved' if ends == 'SUCCESS' else 'declined'}",
        ]


async def test_a_challenge_that_nobody_answers_is_declined(hostile: HostileShop) -> None:
    customer, payment = await hostile.paid("tok_challenge", challenge_ms=200)
    await hostile.becomes(payment["payment_id"], "FAILED")
    final = (await customer.get(f"/payments/{payment['payment_id']}")).json()
    assert final["decline_code"] == "authentication_failed"


# Rate limits


async def test_a_rate_limit_is_waited_for_once(hostile: HostileShop) -> None:
    """It says when to come back, and nothing was charged."""
    _, payment = await hostile.paid("tok_approve", mode="rate_limit", for_s=0.5)
    assert payment["state"] in ("SUCCESS", "ERRORED")
    charges = await hostile.provider.charges(payment["payment_id"])
    assert len(charges) == (payment["state"] == "SUCCESS")
