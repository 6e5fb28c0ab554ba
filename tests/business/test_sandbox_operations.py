"""Captures, voids and refunds of the sandbox provider over real sockets: its sums and failures."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.business.test_sandbox import (
    PATIENT_S,
    Provider,
    behave,
    impatient,
    order,
    running,
)
from tests.faults.waiting import until


@pytest.fixture(scope="module")
async def provider(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Provider]:
    async with running(tmp_path_factory.mktemp("provider") / "ledger.sqlite3") as started:
        yield started


@pytest.fixture(scope="module")
async def connected(provider: Provider) -> AsyncIterator[httpx.AsyncClient]:
    async with provider.client() as shared:
        yield shared


@pytest.fixture
async def client(connected: httpx.AsyncClient) -> httpx.AsyncClient:
    await behave(connected)
    return connected


async def charged(
    client: httpx.AsyncClient, method: str = "tok_approve", *, capture: bool = False
) -> str:
    """The key of a new charge of 1999, authorised only unless told otherwise."""
    charge_key = uuid4().hex
    answer = await client.post("/charges", json=order(charge_key, method, capture=capture))
    assert answer.status_code == 201
    return charge_key


async def operate(
    client: httpx.AsyncClient,
    charge_key: str,
    what: str,
    amount_minor: int | None = None,
    *,
    key: str | None = None,
) -> httpx.Response:
    body: dict[str, Any] = {"operation_key": key or uuid4().hex}
    if amount_minor is not None:
        body["amount_minor"] = amount_minor
    return await client.post(f"/charges/{charge_key}/{what}", json=body)


async def sums(client: httpx.AsyncClient, charge_key: str) -> tuple[int, int, bool]:
    charge = (await client.get(f"/charges/{charge_key}")).json()
    return charge["captured_minor"], charge["refunded_minor"], charge["voided"]


def verdict(answer: httpx.Response) -> str:
    return str(answer.json().get("decline_code", answer.json()["status"]))


async def test_a_charge_is_captured_in_parts_and_given_back_in_parts(
    client: httpx.AsyncClient,
) -> None:
    charge_key = await charged(client)
    assert await sums(client, charge_key) == (0, 0, False)
    parts = [("captures", 1000), ("captures", 999), ("refunds", 500), ("refunds", 1499)]
    for what, amount_minor in parts:
        assert verdict(await operate(client, charge_key, what, amount_minor)) == "approved"
    assert await sums(client, charge_key) == (1999, 1999, False)
    assert verdict(await operate(client, charge_key, "captures", 1)) == "amount_too_large"
    assert verdict(await operate(client, charge_key, "refunds", 1)) == "amount_too_large"


async def test_what_was_captured_at_once_is_only_given_back(client: httpx.AsyncClient) -> None:
    charge_key = await charged(client, capture=True)
    assert await sums(client, charge_key) == (1999, 0, False)
    assert verdict(await operate(client, charge_key, "captures", 1)) == "charge_captured"
    assert verdict(await operate(client, charge_key, "voids")) == "charge_captured"
    assert verdict(await operate(client, charge_key, "refunds", 1999)) == "approved"


async def test_what_is_voided_is_let_go_for_good(client: httpx.AsyncClient) -> None:
    charge_key = await charged(client)
    assert verdict(await operate(client, charge_key, "refunds", 1)) == "amount_too_large"
    assert verdict(await operate(client, charge_key, "voids")) == "approved"
    assert await sums(client, charge_key) == (0, 0, True)
    assert verdict(await operate(client, charge_key, "captures", 1)) == "charge_voided"
    assert verdict(await operate(client, charge_key, "voids")) == "charge_voided"


async def test_a_charge_that_was_declined_can_not_be_captured(client: httpx.AsyncClient) -> None:
    charge_key = await charged(client, "tok_decline")
    assert verdict(await operate(client, charge_key, "captures", 1)) == "charge_not_approved"


@pytest.mark.parametrize("what", ["captures", "refunds"])
async def test_fifty_at_once_take_no_more_than_there_is(
    what: str, client: httpx.AsyncClient
) -> None:
    charge_key = await charged(client, capture=what == "refunds")
    answers = await asyncio.gather(*(operate(client, charge_key, what, 500) for _ in range(50)))
    verdicts = [verdict(answer) for answer in answers]
    assert sorted(verdicts) == ["amount_too_large"] * 47 + ["approved"] * 3


async def test_fifty_with_one_key_are_one_operation(client: httpx.AsyncClient) -> None:
    charge_key, key = await charged(client), uuid4().hex
    answers = await asyncio.gather(
        *(operate(client, charge_key, "captures", 500, key=key) for _ in range(50))
    )
    assert sorted(answer.status_code for answer in answers) == [200] * 49 + [201]
    assert await sums(client, charge_key) == (500, 0, False)
    assert (await client.get(f"/operations/{key}")).json() == answers[0].json()


async def test_a_key_for_something_else_is_refused(client: httpx.AsyncClient) -> None:
    charge_key, key = await charged(client), uuid4().hex
    await operate(client, charge_key, "captures", 500, key=key)
    others = [
        await operate(client, charge_key, "captures", 501, key=key),
        await operate(client, charge_key, "refunds", 500, key=key),
        await operate(client, await charged(client), "captures", 500, key=key),
    ]
    assert [answer.status_code for answer in others] == [422] * 3
    assert await sums(client, charge_key) == (500, 0, False)


async def test_keys_that_never_arrived_are_named(client: httpx.AsyncClient) -> None:
    missing = await client.get("/operations/nobody")
    assert (missing.status_code, missing.json()["operation_key"]) == (404, "nobody")
    orphan = await operate(client, "nothing", "captures", 1)
    assert (orphan.status_code, orphan.json()["charge_key"]) == (404, "nothing")


@pytest.mark.parametrize(
    ("mode", "effect"),
    [
        ("drop", True), ("error", True), ("slow", True), ("hang", False),
        ("drop_after_charge", True), ("error_after_charge", True), ("refuse", False),
        ("hang_by_behaviour", False),
    ],
)  # fmt: skip
async def test_answers_go_astray_after_the_effect_and_before_it(
    mode: str, effect: bool, client: httpx.AsyncClient, provider: Provider
) -> None:
    by_token = mode in ("drop", "error", "slow", "hang")
    charge_key = await charged(client, f"tok_operations_{mode}" if by_token else "tok_approve")
    if not by_token:
        await behave(client, mode=mode.removesuffix("_by_behaviour"))
    key = uuid4().hex
    async with impatient(provider) as caller:
        try:
            answer = await operate(caller, charge_key, "captures", 500, key=key)
        except httpx.TransportError:
            pass
        else:
            assert answer.status_code in (500, 503)
    await behave(client)
    assert await sums(client, charge_key) == (500 if effect else 0, 0, False)
    found = await client.get(f"/operations/{key}")
    assert found.status_code == (200 if effect else 404)


@pytest.mark.parametrize(
    ("method", "final"),
    [("tok_operations_pending", "approved"), ("tok_operations_pending_decline", "declined")],
)
async def test_a_pending_operation_reserves_its_sum_until_it_is_decided(
    method: str, final: str, client: httpx.AsyncClient
) -> None:
    charge_key, key = await charged(client, method), uuid4().hex
    assert verdict(await operate(client, charge_key, "captures", 1500, key=key)) == "pending"
    assert verdict(await operate(client, charge_key, "captures", 1500)) == "amount_too_large"
    assert verdict(await operate(client, charge_key, "refunds", 1)) == "amount_too_large"

    async def decided() -> bool:
        return bool((await client.get(f"/operations/{key}")).json()["status"] == final)

    await until(decided, within_s=PATIENT_S, what=f"the capture is {final}")
    assert await sums(client, charge_key) == (1500 if final == "approved" else 0, 0, False)


async def test_a_token_declines_operations(client: httpx.AsyncClient) -> None:
    charge_key = await charged(client, "tok_operations_decline", capture=True)
    assert verdict(await operate(client, charge_key, "refunds", 1)) == "operation_declined"


async def test_the_list_and_the_balance_have_every_operation(client: httpx.AsyncClient) -> None:
    charge_key = await charged(client)
    made = [(await operate(client, charge_key, "captures", 500)).json() for _ in range(3)]
    listed: list[dict[str, Any]] = []
    cursor: str | None = "0"
    while cursor is not None:
        page = (await client.get("/operations", params={"cursor": cursor, "limit": 2})).json()
        listed, cursor = listed + page["items"], page["next_cursor"]
    assert listed[-3:] == made
    balance = (await client.get("/balance")).json()["operations"]
    approved = {(row["kind"], row["status"]): row["amount_minor"] for row in balance}
    done = [row for row in listed if (row["kind"], row["status"]) == ("capture", "approved")]
    assert approved["capture", "approved"] == sum(row["amount_minor"] for row in done)


async def test_a_ledger_of_before_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    old = sqlite3.connect(path)
    old.executescript(
        """
        create table charges (
            sequence integer primary key autoincrement, charge_id text not null unique,
            charge_key text not null unique, amount_minor integer not null,
            currency text not null, payment_method text not null, first_status text not null,
            becomes text, becomes_at_ms integer, decline_code text, created_at_ms integer not null
        ) strict;
        insert into charges values
            (1, 'ch_1', 'old', 700, 'USD', 'tok_approve', 'approved', null, null, null, 1);
        """
    )
    old.close()
    async with running(path) as provider, provider.client() as client:
        assert await sums(client, "old") == (700, 0, False)
        assert verdict(await operate(client, "old", "refunds", 700)) == "approved"
