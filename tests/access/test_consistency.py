"""What a customer has seen: what access gives the client of it, and what it believes of it."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from services.consistency import UNKNOWN, Seal, Seen
from tests.access.conftest import COOKIE_SECRET, Access, Answer, running
from tests.access.test_identity import CUSTOMER, Business, last, new_token
from tests.access.upstream import Seen as Request
from tests.access.upstream import Upstream, answer

FIELD = b"x-internal-consistency"
SEAL = Seal(COOKIE_SECRET)
SEEN = Seen(3, 4711)
STRANGER = CUSTOMER[:-1] + "2"


class Shop(Business):
    """Business that knows one token, and says of every answer what its customer has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.says = f"{CUSTOMER}/{SEEN.text}"

    async def __call__(self, seen: Request) -> bytes:
        if seen.target.startswith(b"/internal/identities/"):
            return await super().__call__(seen)
        return answer(x_internal_consistency=self.says)


@pytest.fixture
def shop(access: Access) -> Shop:
    access.upstream.script = shop = Shop()
    return shop


def token(seen: Seen = SEEN, customer_id: str = CUSTOMER, age_s: float = 0.0) -> str:
    return SEAL.token(seen, customer_id, time.time() - age_s).decode()


def told(access: Access) -> bytes | None:
    """What business was told that the customer has seen."""
    assert len(last(access).values(FIELD)) <= 1
    return last(access).header(FIELD)


def set_cookies(response: Answer) -> list[str]:
    """The values of Set-Cookie; the tests' answers keep the last one of a name."""
    return [response.headers["set-cookie"]] if "set-cookie" in response.headers else []


# What the client gets


@pytest.mark.parametrize(("method", "name"), [("POST", "tercet_wrote"), ("GET", "tercet_read")])
async def test_a_client_gets_what_it_has_seen_as_a_field_and_a_cookie(
    access: Access, shop: Shop, method: str, name: str
) -> None:
    response = await access.get("/orders/1", method=method)
    given = response.headers["consistency-token"]
    assert SEAL.open(given.encode(), CUSTOMER, time.time()) == SEEN
    cookie = f"{name}={given}; Path=/; Max-Age=10; HttpOnly; SameSite=Lax"
    assert set_cookies(response) == [cookie]
    assert FIELD.decode() not in response.headers


async def test_who_shows_a_bearer_token_gets_no_cookie(access: Access, shop: Shop) -> None:
    response = await access.get("/orders/1", f"authorization: Bearer {shop.token}")
    assert SEAL.open(response.headers["consistency-token"].encode(), CUSTOMER, time.time()) == SEEN
    assert "set-cookie" not in response.headers


async def test_the_cookie_is_secure_where_cookies_are(shop: Shop) -> None:
    async with Upstream(Shop()) as upstream, running(upstream, cookie_secure=True) as access:
        response = await access.get("/orders/1")
        assert response.headers["set-cookie"].endswith("; SameSite=Lax; Secure")


async def test_a_page_never_gets_a_token_whatever_business_says(access: Access, shop: Shop) -> None:
    for path in ("/products", "/products/x", "/categories", "/products/x/stock"):
        response = await access.get(path, f"cookie: tercet_customer={shop.token}")
        assert {"set-cookie", "consistency-token", FIELD.decode()}.isdisjoint(response.headers)


@pytest.mark.parametrize("says", ["", "1/2", f"{CUSTOMER}/1", f"{CUSTOMER}/a/b", "/"])
async def test_nonsense_of_business_is_no_token_and_harms_no_answer(
    access: Access, shop: Shop, says: str
) -> None:
    shop.says = says
    response = await access.get("/orders/1")
    assert response.status == 200
    assert {"set-cookie", "consistency-token"}.isdisjoint(response.headers)


# What business is told


async def test_business_is_told_what_a_token_says(access: Access, shop: Shop) -> None:
    own = f"authorization: Bearer {shop.token}"
    await access.get("/orders/1", own, f"consistency-token: {token()}")
    assert told(access) == b"3/4711"
    assert b"consistency-token" not in last(access).names()
    own = f"cookie: tercet_customer={shop.token}; a=b; tercet_wrote={token()}"
    await access.get("/orders/1", own)
    assert told(access) == b"3/4711"


async def test_of_several_tokens_the_farthest_counts(access: Access, shop: Shop) -> None:
    older, newer, unknown = token(Seen(3, 4000)), token(Seen(3, 5000)), token(UNKNOWN)
    cookies = f"cookie: tercet_customer={shop.token}; tercet_read={older}; tercet_wrote={newer}"
    await access.get("/orders/1", cookies)
    assert told(access) == b"3/5000"
    await access.get("/orders/1", cookies, f"consistency-token: {older}")
    assert told(access) == b"3/5000"
    await access.get("/orders/1", cookies, f"consistency-token: {unknown}")
    assert told(access) == UNKNOWN.text.encode()


FORGED = Seal("another secret, as long as needed")


@pytest.mark.parametrize(
    "make",  # when the test runs: a token made earlier would be over, whatever else it is
    [
        pytest.param(lambda: token(customer_id=STRANGER), id="a stranger's"),
        pytest.param(lambda: token(age_s=11), id="over"),
        pytest.param(lambda: token()[:-1] + "!", id="changed"),
        pytest.param(lambda: FORGED.token(SEEN, CUSTOMER, time.time()).decode(), id="forged"),
        pytest.param(lambda: "3.1267.0.AAAAAAAAAAAAAAAAAAAAAA", id="made up"),
        pytest.param(lambda: "nonsense", id="nonsense"),
    ],
)
async def test_a_token_that_is_not_this_customers_or_over_is_none(
    access: Access, shop: Shop, make: Callable[[], str]
) -> None:
    shown = make()
    own = f"cookie: tercet_customer={shop.token}; tercet_wrote={shown}; tercet_read={shown}"
    response = await access.get("/orders/1", own, f"consistency-token: {shown}")
    assert response.status == 200
    assert told(access) is None


async def test_without_a_customer_a_token_says_nothing(access: Access, shop: Shop) -> None:
    await access.get("/orders/1", f"consistency-token: {token()}")
    assert told(access) is None
    await access.get("/orders/1", f"cookie: tercet_customer={new_token()}; tercet_read={token()}")
    assert told(access) is None


async def test_a_page_is_asked_for_without_a_token(access: Access, shop: Shop) -> None:
    own = f"cookie: tercet_customer={shop.token}; tercet_wrote={token()}"
    await access.get("/products/x/stock", own, f"consistency-token: {token()}")
    assert {FIELD, b"consistency-token"}.isdisjoint(last(access).names())


async def test_a_client_can_not_say_itself_what_it_has_seen(access: Access, shop: Shop) -> None:
    own = f"authorization: Bearer {shop.token}"
    await access.get("/orders/1", own, "X-Internal-Consistency: 9/9", "x_internal_consistency: 9/9")
    assert told(access) is None


async def test_a_thousand_tokens_cost_no_more_than_three(
    access: Access, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[bytes] = []
    really = Seal.open

    def counted(self: Seal, shown: bytes, customer_id: str, now: float) -> Seen | None:
        opened.append(shown)
        return really(self, shown, customer_id, now)

    monkeypatch.setattr(Seal, "open", counted)
    forged = "; ".join(f"tercet_read=1.2.3.{n:022d}" for n in range(100))
    own = f"cookie: tercet_customer={shop.token}; {forged}; tercet_wrote={token()}"
    await access.get("/orders/1", own, f"consistency-token: {token(Seen(3, 1))}")
    assert told(access) == b"3/4711"
    assert len(opened) == 3
