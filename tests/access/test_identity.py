"""Who a request comes from, as business sees it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import secrets

import pytest

from tests.access.conftest import SECRET, Access, request, running
from tests.access.upstream import Seen, Upstream, answer

CUSTOMER = "0198c0de-0000-7000-8000-000000000001"
SESSION = "0198c0de-0000-7000-8000-00000000000a"
GUESTS = ["0198c0de-0000-7000-8000-0000000000b1", "0198c0de-0000-7000-8000-0000000000b2"]
# What access tells business of who it is; from a client each is a lie.
TOLD = (
    *(b"x-customer-id", b"x-customer-role", b"x-session-id", b"x-customer-guests"),
    b"x-guest-token-sha256",
)
CROSS_SITE = "sec-fetch-site: cross-site"


def digest_of(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def new_token() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode()


class Business:
    """Knows one token, and a session of the same customer's."""

    def __init__(self) -> None:
        self.token, self.session = new_token(), new_token()
        self.lookups = 0

    async def __call__(self, seen: Seen) -> bytes:
        if not seen.target.startswith(b"/internal/identities/"):
            return answer()
        assert seen.header(b"x-internal-secret") == SECRET.encode()
        self.lookups += 1
        asked = seen.target.rpartition(b"/")[2].decode()
        document: dict[str, object] = {
            "customer_id": CUSTOMER,
            "role": "guest",
            "session_id": None,
            "guests": [],
        }
        if asked == digest_of(self.session):
            document |= {"role": "merchant", "session_id": SESSION, "guests": GUESTS}
        elif asked != digest_of(self.token):
            return answer(b"{}", 404)
        return answer(json.dumps(document | {"expires_in_s": 60}).encode())


@pytest.fixture
def business(access: Access) -> Business:
    access.upstream.script = business = Business()
    return business


def last(access: Access) -> Seen:
    return access.upstream.requests[-1]


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_a_bearer_token_becomes_its_customer(
    access: Access, business: Business, scheme: str
) -> None:
    response = await access.get("/orders/1", f"authorization: {scheme} {business.token}")
    assert response.status == 200
    assert last(access).header(b"x-customer-id") == CUSTOMER.encode()
    assert last(access).header(b"authorization") is None


async def test_a_cookie_becomes_its_customer(access: Access, business: Business) -> None:
    await access.get("/orders/1", f"cookie: a=b; tercet_customer={business.token}; c=d")
    assert last(access).header(b"x-customer-id") == CUSTOMER.encode()


async def test_an_unknown_bearer_token_is_401_and_not_passed_on(
    access: Access, business: Business
) -> None:
    response = await access.get("/orders/1", f"authorization: Bearer {new_token()}")
    assert response.status == 401
    assert response.headers["www-authenticate"].startswith("Bearer")
    assert last(access).target.startswith(b"/internal/")


@pytest.mark.parametrize("value", ["Bearer", "Bearer x", "Bearer " + "é" * 43, "Basic YTpi", "x"])
async def test_what_can_not_be_a_token_is_401_without_a_lookup(
    access: Access, business: Business, value: str
) -> None:
    assert (await access.get("/orders/1", f"authorization: {value}")).status == 401
    assert business.lookups == 0


async def test_two_authorizations_are_400(access: Access, business: Business) -> None:
    lines = [f"authorization: Bearer {business.token}"] * 2
    assert (await access.get("/orders/1", *lines)).status == 400


async def test_an_unknown_cookie_is_nobody(access: Access, business: Business) -> None:
    response = await access.get("/orders/1", f"cookie: tercet_customer={new_token()}")
    assert response.status == 200
    assert last(access).header(b"x-customer-id") is None


async def test_a_page_is_fetched_for_nobody(access: Access, business: Business) -> None:
    await access.get(
        "/products/a", f"authorization: Bearer {business.token}", f"cookie: x={business.token}"
    )
    seen = last(access)
    assert {b"authorization", b"cookie", b"x-customer-id"}.isdisjoint(seen.names())
    assert business.lookups == 0


async def test_a_session_is_told_with_its_role_and_its_guests(
    access: Access, business: Business
) -> None:
    both = f"cookie: tercet_customer={business.token}; tercet_session={business.session}"
    for line in (f"authorization: Bearer {business.session}", both):
        for path in ("/orders/1", "/operator/upstreams"):
            await access.get(path, line)
            told = {name: last(access).header(name) for name in TOLD}
            assert told == {
                b"x-customer-id": CUSTOMER.encode(),
                b"x-customer-role": b"merchant",
                b"x-session-id": SESSION.encode(),
                b"x-customer-guests": ",".join(GUESTS).encode(),
                b"x-guest-token-sha256": None,
            }
            assert {b"authorization", b"cookie"}.isdisjoint(last(access).names())


async def test_a_session_comes_before_a_guest_even_where_it_is_over(
    access: Access, business: Business
) -> None:
    cookies = f"cookie: tercet_customer={business.token}; tercet_session={new_token()}"
    await access.get("/orders/1", cookies)
    assert last(access).header(b"x-customer-id") is None


async def test_the_cookie_of_a_session_has_its_prefix_where_cookies_are_secure() -> None:
    business = Business()
    async with Upstream(business) as upstream, running(upstream, cookie_secure=True) as access:
        for name, known in (("__Host-tercet_session", True), ("tercet_session", False)):
            await access.get("/orders/1", f"cookie: {name}={business.session}")
            told = last(access).header(b"x-session-id")
            assert told == (SESSION.encode() if known else None), name


async def test_a_login_tells_business_of_the_guest_and_nothing_else_does(
    access: Access, business: Business
) -> None:
    lie = f"x-guest-token-sha256: {digest_of('x')}"
    guest = f"cookie: tercet_customer={business.token}"
    for method, path, line, expected in (
        ("POST", "/sessions", guest, digest_of(business.token)),
        ("POST", "/customers", guest, digest_of(business.token)),
        ("POST", "/sessions", "cookie: tercet_customer=x", None),
        ("POST", "/sessions", "accept: */*", None),
        ("POST", "/orders", guest, None),
    ):
        await access.get(path, line, lie, method=method)
        told = last(access).header(b"x-guest-token-sha256")
        assert told == (None if expected is None else expected.encode()), (method, path)
        assert {b"authorization", b"cookie"}.isdisjoint(last(access).names())


@pytest.mark.parametrize("name", [name.decode() for name in TOLD])
@pytest.mark.parametrize("path", ["/orders/1", "/operator/upstreams", "/products/a"])
async def test_a_client_can_not_say_itself_who_it_is(
    access: Access, business: Business, name: str, path: str
) -> None:
    await access.get(path, f"{name}: operator", f"{name.replace('-', '_')}: operator")
    assert not [each for each in last(access).names() if name.encode() in each.replace(b"_", b"-")]


async def test_what_another_site_has_a_browser_send_is_refused(
    access: Access, business: Business
) -> None:
    session, guest = f"tercet_session={business.session}", f"tercet_customer={business.token}"
    for lines, status in (
        (["cookie: " + session, CROSS_SITE], 403),
        (["cookie: " + guest, CROSS_SITE], 403),
        (["cookie: " + session, "origin: https://evil.example"], 403),
        (["cookie: " + session, "origin: https://shop.example"], 200),
        (["cookie: " + session, "sec-fetch-site: same-origin"], 200),
        (["cookie: " + session], 200),
        (["cookie: theme=dark", CROSS_SITE], 200),
        # Another site can not have a browser send this field.
        ([f"authorization: Bearer {business.session}", "cookie: " + session, CROSS_SITE], 200),
    ):
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            response = await access.get("/orders/1", *lines, method=method)
            assert response.status == status, (method, lines)
        assert (await access.get("/orders/1", *lines)).status == 200, lines


async def test_another_site_can_not_have_a_browser_log_in(
    access: Access, business: Business
) -> None:
    assert (await access.get("/sessions", CROSS_SITE, method="POST")).status == 403
    assert (await access.get("/sessions", method="POST")).status == 200
    assert (await access.get("/carts", CROSS_SITE, method="POST")).status == 200


async def test_a_site_that_is_allowed_may_send() -> None:
    business = Business()
    cookie = f"cookie: tercet_session={business.session}"
    async with (
        Upstream(business) as upstream,
        running(upstream, allowed_origins="https://app.example") as access,
    ):
        for origin, status in (("https://app.example", 200), ("https://app.example.evil", 403)):
            lines = [cookie, "sec-fetch-site: same-site", f"origin: {origin}"]
            assert (await access.get("/orders/1", *lines, method="PUT")).status == status
        lines = [cookie, "sec-fetch-site: same-site"]
        assert (await access.get("/orders/1", *lines, method="PUT")).status == 403


async def test_a_logout_is_over_in_its_own_process_before_its_answer(
    access: Access, business: Business
) -> None:
    line = f"authorization: Bearer {business.session}"
    client = await access.connect()
    assert (await client.send(request("/orders/1", line))).status == 200
    business.session = new_token()
    assert (await client.send(request("/orders/1", line))).status == 200  # it is known here
    left = await client.send(request("/sessions/current", line, method="DELETE"))
    assert left.status == 200
    assert (await client.send(request("/orders/1", line))).status == 401
    await client.close()


async def test_a_token_is_looked_up_once_for_many_requests(
    access: Access, business: Business
) -> None:
    calls = [access.get("/orders/1", f"authorization: Bearer {business.token}") for _ in range(10)]
    assert {response.status for response in await asyncio.gather(*calls)} == {200}
    assert business.lookups == 1


async def test_an_unknown_token_is_looked_up_once_for_many_requests(
    access: Access, business: Business
) -> None:
    line = f"authorization: Bearer {new_token()}"
    assert {(await access.get("/orders/1", line)).status for _ in range(5)} == {401}
    assert business.lookups == 1


async def test_business_away_is_503_and_not_401(access: Access) -> None:
    async def broken(_: Seen) -> bytes:
        return answer(b"", 500)

    access.upstream.script = broken
    line = f"authorization: Bearer {new_token()}"
    response = await access.get("/orders/1", line)
    assert response.status == 503
    assert response.headers["retry-after"] == "1"
