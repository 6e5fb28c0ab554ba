"""S3 and S4: what a client says of itself is not believed, and every route has its methods."""

from __future__ import annotations

import hashlib
import re
from typing import Final

import httpx
import pytest

from tests.running_stack import RunningStack
from tests.security.guests import Goods, Guest, client_of
from tests.security.wire import assert_is_problem, assert_tells_nothing, exchange, request

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


@pytest.mark.parametrize("name", ["X-Customer-Id", "x_customer_id", "X-CUSTOMER-ID"])
def test_nobody_becomes_a_customer_by_naming_one(
    stack: RunningStack, alice: Guest, name: str
) -> None:
    customer_id = customer_of(stack, alice)
    spoofed = request("GET", f"/orders/{alice.order_id}", f"{name}: {customer_id}")
    assert_is_problem(exchange(stack.url, spoofed), 401)


def test_a_customer_does_not_become_another_by_naming_them(
    stack: RunningStack, alice: Guest, bob: Guest
) -> None:
    spoofed = request(
        "GET",
        f"/orders/{alice.order_id}",
        f"authorization: {bob.authorization}",
        f"x-customer-id: {customer_of(stack, alice)}",
    )
    assert_is_problem(exchange(stack.url, spoofed), 404)


@pytest.mark.parametrize(
    "path", ["/internal/identities/", "/INTERNAL/identities/", "//internal/x/"]
)
def test_the_internal_secret_opens_nothing_from_outside(stack: RunningStack, path: str) -> None:
    """Even somebody who knows it gets nowhere by it through access."""
    secret = f"x-internal-secret: {stack.secret('internal_secret')}"
    assert_is_problem(exchange(stack.url, request("GET", f"{path}{'0' * 64}", secret)), 404)


@pytest.mark.parametrize("deadline", ["0", "1", "-5", "999999999", "NaN", "1e9", ""])
def test_a_client_sets_no_deadline(stack: RunningStack, deadline: str) -> None:
    answer = exchange(stack.url, request("GET", "/products", f"x-deadline-ms: {deadline}"))
    assert answer.status == 200


@pytest.mark.parametrize(
    ("given", "kept"),
    [("abc-123_x.Y", True), ("a b", False), ("a" * 65, False), ("", False), ("a;b", False)],
)
def test_a_request_id_is_kept_only_in_its_form(
    stack: RunningStack, given: str, *, kept: bool
) -> None:
    answer = exchange(stack.url, request("GET", "/products/none", f"x-request-id: {given}"))
    assert (answer.header("x-request-id") == given) is kept
    assert_is_problem(answer, 404)


def test_the_wrong_methods_of_every_route_are_405_and_named(
    stack: RunningStack, goods: Goods, alice: Guest
) -> None:
    """The routes of the document, and the methods that it gives each: Allow says just those."""
    with client_of(stack) as client:
        paths = client.get("/openapi.json").json()["paths"]
    for path, operations in paths.items():
        known = {method.upper() for method in operations}
        known |= {"HEAD"} if "GET" in known else set()
        target = re.sub(r"{\w+_id}", alice.order_id, path.replace("{slug}", goods.slug))
        for method in set(METHODS) - known:
            lines = (f"authorization: {alice.authorization}", "content-type: application/json")
            answer = exchange(stack.url, request(method, target, *lines))
            assert answer.status == 405, f"{method} {target}"
            assert allowed(answer.header("allow")) == known, f"{method} {target}"
            assert_tells_nothing(answer)


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "PROPFIND", "PURGE", "SEARCH"])
@pytest.mark.parametrize("path", ["/products", "/orders", "/live", "/nowhere"])
def test_methods_that_nothing_here_has_are_405(stack: RunningStack, method: str, path: str) -> None:
    target = "shop.example:443" if method == "CONNECT" else path
    answer = exchange(stack.url, request(method, target, "x-marker: echoed"))
    assert_is_problem(answer, 405)
    assert allowed(answer.header("allow")) == set(METHODS)
    assert b"echoed" not in answer.body


@pytest.mark.parametrize(
    "line",
    [
        "x-http-method-override: DELETE",
        "x-method-override: PUT",
        "x-original-url: /internal/identities/x",
        "x-rewrite-url: /operator/upstreams",
        "x-forwarded-host: evil.example",
        "forwarded: for=127.0.0.1;host=evil.example",
    ],
)
def test_headers_that_rewrite_requests_elsewhere_change_nothing_here(
    stack: RunningStack, line: str
) -> None:
    plain = exchange(stack.url, request("GET", "/categories"))
    rewritten = exchange(stack.url, request("GET", "/categories", line))
    assert (rewritten.status, rewritten.body) == (200, plain.body)
    assert "evil" not in str(rewritten.headers)


@pytest.mark.parametrize("ending", ["\r\nset-cookie: a=b", "\nx: y", "\rx: y", "%0d%0ax: y"])
def test_no_line_break_of_a_client_gets_into_an_answer(stack: RunningStack, ending: str) -> None:
    for data in (
        request("GET", "/products/none", f"x-request-id: abc{ending}"),
        request("GET", f"/products/none?q=abc{ending}"),
        request("GET", "/products/none", host=f"shop.example{ending}"),
    ):
        answer = exchange(stack.url, data)
        assert answer.status in (400, 404)
        assert {"set-cookie", "x"}.isdisjoint(name for name, _ in answer.headers)


def allowed(value: str | None) -> set[str]:
    return {method.strip() for method in (value or "").split(",")}


def customer_of(stack: RunningStack, guest: Guest) -> str:
    """The guest's customer id, as business tells access."""
    digest = hashlib.sha256(guest.token.encode()).hexdigest()
    business = stack.part("business")["address"]
    answer = httpx.get(
        f"http://{business}/internal/identities/{digest}",
        headers={"x-internal-secret": stack.secret("internal_secret")},
        trust_env=False,
    )
    return str(answer.json()["customer_id"])
