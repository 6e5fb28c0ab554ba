"""S6, S21, S24: what is one customer's is nobody else's, and no cache may keep it."""

from __future__ import annotations

from typing import Final

import httpx
import pytest

from tests.running_stack import RunningStack
from tests.security.guests import Goods, Guest, client_of, new_key
from tests.security.wire import PROBLEM_JSON

PRIVATE: Final = "no-store"

ANALYTICS = ("series", "top-products", "funnel", "searches")


def paid(stack: RunningStack, guest: Guest, key: str, order_id: str = "") -> httpx.Response:
    with client_of(stack) as client:
        return client.post(
            f"/orders/{order_id or guest.order_id}/payments",
            headers={"authorization": guest.authorization, "idempotency-key": key},
            json={"payment_method": "tok_approve"},
        )


def ordered(stack: RunningStack, goods: Goods, guest: Guest, key: str) -> httpx.Response:
    with client_of(stack) as client:
        return client.post(
            "/orders",
            headers={"authorization": guest.authorization, "idempotency-key": key},
            json={"lines": [{"variant_id": goods.variant_id, "quantity": 1}]},
        )


def got(stack: RunningStack, path: str, **headers: str) -> httpx.Response:
    with client_of(stack) as client:
        return client.get(path, headers=headers)


def same(one: httpx.Response, other: httpx.Response) -> bool:
    """Equal but for the request id."""
    left, right = one.json(), other.json()
    return {**left, "request_id": ""} == {**right, "request_id": ""}


def test_anothers_order_is_as_unknown_as_none(
    stack: RunningStack, alice: Guest, bob: Guest
) -> None:
    nobodys = "01890000-0000-7000-8000-000000000000"
    as_bob = {"authorization": bob.authorization}
    for path, unknown in (
        (f"/orders/{alice.order_id}", f"/orders/{nobodys}"),
        (f"/payments/{alice.order_id}", f"/payments/{nobodys}"),
    ):
        other, none = got(stack, path, **as_bob), got(stack, unknown, **as_bob)
        assert (other.status_code, none.status_code) == (404, 404)
        assert same(other, none)


def test_anothers_order_can_not_be_paid(stack: RunningStack, alice: Guest, bob: Guest) -> None:
    assert paid(stack, bob, new_key(), alice.order_id).status_code == 404
    mine = got(stack, f"/orders/{alice.order_id}", authorization=alice.authorization)
    assert mine.json()["payments"] == []


def test_anothers_payment_is_as_unknown_as_none(
    stack: RunningStack, goods: Goods, alice: Guest, bob: Guest
) -> None:
    order_id = ordered(stack, goods, alice, new_key()).json()["order_id"]
    payment = paid(stack, alice, new_key(), order_id).json()
    path = f"/payments/{payment['payment_id']}"
    assert got(stack, path, authorization=alice.authorization).status_code == 200
    assert got(stack, path, authorization=bob.authorization).status_code == 404
    assert got(stack, path).status_code == 401


def test_anothers_cart_and_order_can_not_be_changed_or_ordered(
    stack: RunningStack, goods: Goods, alice: Guest, bob: Guest
) -> None:
    """S6 for every route that takes an id of a customer's: another's is as unknown as none."""
    nobodys = "01890000-0000-7000-8000-000000000000"
    as_alice, as_bob = {"authorization": alice.authorization}, {"authorization": bob.authorization}
    line = {"variant_id": goods.variant_id, "quantity": 1}
    with client_of(stack) as client:
        cart = client.post("/carts", headers=as_alice, json={"lines": [line]}).json()
        asked: list[tuple[str, str, dict[str, object] | None]] = [
            ("GET", "/carts/{cart}", None),
            ("PUT", f"/carts/{{cart}}/lines/{goods.variant_id}", {"quantity": 7}),
            ("DELETE", f"/carts/{{cart}}/lines/{goods.variant_id}", None),
            ("PUT", "/orders/{order}/cancellation", None),
            ("POST", "/orders", {"cart_id": "{cart}", "cart_version": cart["version"]}),
        ]
        for method, path, body in asked:
            answers = []
            for cart_id, order_id in ((cart["cart_id"], alice.order_id), (nobodys, nobodys)):
                sent = (
                    body if body is None or "cart_id" not in body else body | {"cart_id": cart_id}
                )
                target = path.format(cart=cart_id, order=order_id)
                headers = as_bob | {"idempotency-key": new_key()}
                answers.append(client.request(method, target, headers=headers, json=sent))
            assert [answer.status_code for answer in answers] == [404, 404], (method, path)
            assert same(*answers), (method, path)
        assert client.get(f"/carts/{cart['cart_id']}", headers=as_alice).json() == cart
    mine = got(stack, f"/orders/{alice.order_id}", **as_alice)
    assert mine.json()["state"] == "placed"


def test_what_is_the_operators_is_no_customers(
    stack: RunningStack, goods: Goods, alice: Guest, bob: Guest
) -> None:
    """Nor that of whoever paid: captures, voids, refunds, sales and reviews."""
    order_id = ordered(stack, goods, alice, new_key()).json()["order_id"]
    payment = f"/payments/{paid(stack, alice, new_key(), order_id).json()['payment_id']}"
    review = "/operator/payment-reviews"
    resolution = f"{review}/{order_id}/resolution"
    with client_of(stack) as client:
        for method, path in (
            *(("POST", f"{payment}/{name}") for name in ("captures", "voids", "refunds")),
            *(("POST", "/flash-sales"), ("GET", review), ("PUT", resolution)),
            *(("GET", f"/analytics/{name}") for name in ANALYTICS),
        ):
            for guest in (alice, bob):
                headers = {"authorization": guest.authorization, "idempotency-key": new_key()}
                answer = client.request(method, path, headers=headers, json={})
                assert answer.status_code == 403, (method, path, answer.text)
    shown = got(stack, f"/orders/{order_id}", authorization=alice.authorization).json()
    assert shown["state"] == "paid"


def test_anothers_idempotency_key_reveals_nothing(
    stack: RunningStack, goods: Goods, alice: Guest, bob: Guest
) -> None:
    """The same key of two customers is two keys: each gets an order of their own."""
    key = new_key()
    hers, his = ordered(stack, goods, alice, key), ordered(stack, goods, bob, key)
    assert (hers.status_code, his.status_code) == (201, 201)
    assert hers.json()["order_id"] != his.json()["order_id"]
    assert "idempotent-replayed" not in his.headers
    again = ordered(stack, goods, bob, key)
    assert again.json()["order_id"] == his.json()["order_id"]
    assert again.headers["idempotent-replayed"] == "true"


def test_keys_of_one_customer_say_nothing_to_another_on_any_route_that_takes_them(
    stack: RunningStack, goods: Goods, alice: Guest, bob: Guest
) -> None:
    """S21: what is answered to a key is what its own customer got, whoever else has used it."""
    lines = {"lines": [{"variant_id": goods.variant_id, "quantity": 1}]}
    operator = f"Bearer {stack.secret('operator_token')}"
    with client_of(stack) as client:

        def ask(path: str, authorization: str, key: str, body: object) -> httpx.Response:
            headers = {"authorization": authorization, "idempotency-key": key}
            return client.post(path, headers=headers, json=body)

        for path, body in (
            ("/orders", lines),
            ("/orders/{order_id}/payments", {"payment_method": "tok_approve"}),
        ):
            for key in (new_key(), "1", "!" * 255):  # also where it can be guessed
                fresh = {one: ordered(stack, goods, one, new_key()).json() for one in (alice, bob)}
                orders = {one: fresh[one]["order_id"] for one in fresh}
                hers = ask(path.format(order_id=orders[alice]), alice.authorization, key, body)
                his = ask(path.format(order_id=orders[bob]), bob.authorization, key, body)
                assert "idempotent-replayed" not in his.headers, (path, key, his.text)
                if hers.status_code == 201 and his.status_code == 201:
                    assert not _ids(hers.json()) & _ids(his.json()), (path, key)
                # The same by another body, and by another's thing: nothing of hers is in it.
                for answer in (
                    ask(path.format(order_id=orders[alice]), bob.authorization, key, body),
                    ask(path.format(order_id=orders[alice]), operator, key, body),
                ):
                    assert not _ids(hers.json()) & _ids(answer.json()), (path, key, answer.text)


def _ids(document: dict[str, object]) -> set[str]:
    """What names something of a customer's own in an answer."""
    own = ("order_id", "payment_id", "customer_id", "cart_id")
    return {str(value) for name, value in document.items() if name in own and value}


def test_nobody_learns_by_a_key_whether_it_was_used(
    stack: RunningStack, goods: Goods, alice: Guest
) -> None:
    """Without a token every order is a new guest's, whatever its key was used for."""
    key = new_key()
    assert ordered(stack, goods, alice, key).status_code == 201
    with client_of(stack) as client:
        body = {"lines": [{"variant_id": goods.variant_id, "quantity": 2}]}
        fresh = client.post("/orders", headers={"idempotency-key": key}, json=body)
    assert fresh.status_code == 201
    assert "idempotent-replayed" not in fresh.headers


def test_operators_routes_know_no_customer(stack: RunningStack, alice: Guest) -> None:
    for authorization in ("", alice.authorization, "Bearer x", "Basic b3BlcmF0b3I6eA=="):
        answer = got(stack, "/operator/upstreams", authorization=authorization)
        assert answer.status_code == (403 if authorization == alice.authorization else 401)
        assert answer.headers["content-type"] == PROBLEM_JSON


def test_the_operators_token_is_no_customers(stack: RunningStack, alice: Guest) -> None:
    """An operator has orders of its own, or none: those of customers are another's."""
    operator = f"Bearer {stack.secret('operator_token')}"
    assert got(stack, f"/orders/{alice.order_id}", authorization=operator).status_code == 404


def test_private_answers_are_never_kept(stack: RunningStack, goods: Goods, alice: Guest) -> None:
    order = ordered(stack, goods, alice, new_key())
    payment = paid(stack, alice, new_key(), order.json()["order_id"])
    mine = {"authorization": alice.authorization}
    for answer in (
        order,
        payment,
        got(stack, f"/orders/{alice.order_id}", **mine),
        got(stack, f"/payments/{payment.json()['payment_id']}", **mine),
        got(stack, f"/orders/{alice.order_id}"),
        got(stack, "/orders/x", **mine),
    ):
        assert answer.headers["cache-control"] == PRIVATE, answer.url
        assert "etag" not in answer.headers


def weak(etag: str) -> str:
    return etag.removeprefix("W/")


def test_two_customers_get_the_same_page_without_a_word_about_them(
    stack: RunningStack, goods: Goods, alice: Guest, bob: Guest
) -> None:
    pages = [
        got(stack, f"/products/{goods.slug}", **headers)
        for headers in (
            {},
            {"authorization": alice.authorization},
            {"authorization": "Bearer nobody"},
            {"cookie": f"tercet_customer={bob.token}"},
        )
    ]
    for page in pages:
        assert page.content == pages[0].content
        # Weak once its codings are made, which happens beside the first answers.
        assert weak(page.headers["etag"]) == weak(pages[0].headers["etag"])
        assert page.headers["cache-control"].startswith("public")
        assert "set-cookie" not in page.headers
        assert page.headers.get("vary", "accept-encoding").lower() == "accept-encoding"


@pytest.mark.parametrize(
    "suffix", ["/x.css", ".css", ";x.css", "%2fx.css", "/..%2fx.css", "?x.css"]
)
def test_a_private_answer_has_no_name_that_looks_public(
    stack: RunningStack, alice: Guest, suffix: str
) -> None:
    """Cache deception: what a careless cache would keep for its ending is refused, or private."""
    answer = got(stack, f"/orders/{alice.order_id}{suffix}", authorization=alice.authorization)
    assert answer.status_code == (200 if suffix.startswith("?") else answer.status_code)
    assert answer.status_code in (200, 400, 404)
    assert answer.headers["cache-control"] == PRIVATE


def test_the_guests_cookie_is_out_of_reach_of_scripts_and_other_sites(
    stack: RunningStack, goods: Goods
) -> None:
    with client_of(stack) as client:
        body = {"lines": [{"variant_id": goods.variant_id, "quantity": 1}]}
        placed = client.post("/orders", headers={"idempotency-key": new_key()}, json=body)
        cookie = placed.headers["set-cookie"]
        assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= set(cookie.split("; "))
        # And by it alone the guest is known.
        assert client.get(f"/orders/{placed.json()['order_id']}").status_code == 200
