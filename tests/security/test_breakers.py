"""Nobody outside can make this shop give up its own database, and it does so when it is away."""

from __future__ import annotations

from typing import Final

import httpx
import pytest

from services.data.pool import Pool
from services.data.sources import Primary
from services.problems import Unavailable
from tests.running_stack import RunningStack
from tests.security.guests import Goods, Guest, client_of, new_key

REFUSED: Final = 60  # several times what opens a breaker


def states(stack: RunningStack, client: httpx.Client) -> dict[str, str]:
    headers = {"authorization": f"Bearer {stack.secret('operator_token')}"}
    items = client.get("/operator/upstreams", headers=headers).json()["items"]
    return {item["name"]: item["state"] for item in items}


def test_requests_that_a_transaction_refuses_do_not_open_a_breaker(
    stack: RunningStack, goods: Goods, alice: Guest
) -> None:
    """Each of these leaves a transaction by a problem: sold out, unknown, used differently."""
    nobodys = "01890000-0000-7000-8000-000000000000"
    key = new_key()
    wrong = [
        ("/orders", {"lines": [{"variant_id": nobodys, "quantity": 1}]}, new_key()),
        (f"/orders/{nobodys}/payments", {"payment_method": "tok_approve"}, new_key()),
        ("/orders", {"lines": [{"variant_id": goods.variant_id, "quantity": 2}]}, key),
    ]
    with client_of(stack) as client:
        client.headers["authorization"] = alice.authorization
        body = {"lines": [{"variant_id": goods.variant_id, "quantity": 1}]}
        assert client.post("/orders", json=body, headers={"idempotency-key": key}).is_success
        for number in range(REFUSED):
            path, refused, used = wrong[number % len(wrong)]
            answer = client.post(path, json=refused, headers={"idempotency-key": used})
            assert answer.status_code in (404, 422), answer.text
        assert states(stack, client)["primary"] == "closed"


async def test_a_database_that_refuses_connections_is_given_up_and_not_asked_again() -> None:
    pool = Pool(
        "nobody",
        "postgresql://nobody@127.0.0.1:1/nothing",
        password="",
        size=2,
        statement_timeout_ms=1000,
    )
    primary = Primary(pool)
    for _ in range(20):
        with pytest.raises(Unavailable):
            await primary.fetchval("select 1")
    assert pool.upstream.breaker.current_state.name == "OPEN"
    await pool.close()
