"""Bad input, sent as bytes through access: a named problem each, and nothing happens by it."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
import uuid
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
import pytest

from tests.running_stack import RunningStack
from tests.security.guests import Goods, Guest, new_guest, new_key, plenty_of_goods
from tests.security.wire import Answer, assert_is_problem, exchange, request

JSON: Final = "content-type: application/json"
BODY_LIMIT_BYTES: Final = 65_536
UNKNOWN_ID: Final = "01890000-0000-7000-8000-000000000000"


@dataclass(frozen=True)
class Case:
    """Something wrong: what is sent, the status it gets, and the field that is named."""

    name: str
    data: bytes
    status: int
    field: str | None = None


@dataclass(frozen=True)
class Buyer:
    """What a request that is right would name."""

    goods: Goods
    guest: Guest


@pytest.fixture(scope="module")
def buyer(stack: RunningStack) -> Buyer:
    goods = plenty_of_goods(stack)
    return Buyer(goods, new_guest(stack, goods))


# Stands in the requests below for what only the running stack knows.
VARIANT, ORDER, TOKEN, SLUG = "<variant>", "<order>", "<token>", "<slug>"


def filled(data: bytes, buyer: Buyer) -> bytes:
    """The request with the stack's own ids; a length that was right stays right."""
    for mark, value in (
        (VARIANT, buyer.goods.variant_id),
        (ORDER, buyer.guest.order_id),
        (TOKEN, buyer.guest.token),
        (SLUG, buyer.goods.slug),
    ):
        data = data.replace(mark.encode(), value.encode())
    head, _, body = data.partition(b"\r\n\r\n")
    lines = [
        b"content-length: %d" % len(body) if line == b"content-length: right" else line
        for line in head.split(b"\r\n")
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def get(name: str, target: str, status: int, field: str | None = None) -> Case:
    return Case(name, request("GET", target), status, field)


def own(name: str, target: str, status: int, field: str | None = None) -> Case:
    """A GET of a customer who is known."""
    return Case(name, request("GET", target, f"authorization: Bearer {TOKEN}"), status, field)


def post(
    name: str,
    body: bytes | str,
    status: int,
    field: str | None = None,
    *,
    target: str = "/orders",
    lines: tuple[str, ...] = (JSON, "idempotency-key: <key>"),
) -> Case:
    body = body.encode() if isinstance(body, str) else body
    head = [f"POST {target} HTTP/1.1", "host: shop.example", "connection: close", *lines]
    head += [f"authorization: Bearer {TOKEN}", "content-length: right", "", ""]
    return Case(name, "\r\n".join(head).encode("latin-1") + body, status, field)


def line(quantity: str = "1", variant: str = f'"{VARIANT}"', more: str = "", top: str = "") -> str:
    """An order of one line, each part as it is written in JSON."""
    return f'{{"lines":[{{"variant_id":{variant},"quantity":{quantity}{more}}}]{top}}}'


def keyed(name: str, *keys: str) -> Case:
    lines = tuple(f"idempotency-key: {key}" for key in keys)
    return post(name, line(), 400, "Idempotency-Key", lines=(JSON, *lines))


def typed(name: str, *types: str) -> Case:
    lines = tuple(f"content-type: {value}" for value in types)
    key = "idempotency-key: <key>"
    return post(name, line(), 415, "Content-Type", lines=(*lines, key))


def pay(name: str, body: str, status: int, field: str | None, order: str = ORDER) -> Case:
    return post(name, body, status, field, target=f"/orders/{order}/payments")


def chunked(size_bytes: int) -> bytes:
    """An order whose body comes in chunks and is never said to be long."""
    head = request("POST", "/orders", JSON, "idempotency-key: <key>", "transfer-encoding: chunked")
    head = head.replace(b"content-length: 0\r\n", b"")
    chunk = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
    return head + chunk * (size_bytes // 0x4000 + 1) + b"0\r\n\r\n"


def long_body(size_bytes: int) -> Case:
    lines = (JSON, "idempotency-key: <key>")
    return post(f"a body of {size_bytes} bytes", b" " * size_bytes, 413, lines=lines)


QUANTITY = "/lines/0/quantity"
LINE_51 = ",".join(f'{{"variant_id":"{uuid.UUID(int=n)}","quantity":1}}' for n in range(1, 52))

PATHS = [
    get("a product that is not there", "/products/no-such-product", 404),
    get("stock of a product that is not there", "/products/no-such-product/stock", 404),
    get("a slug in capitals", "/products/NO", 404),
    get("a slug with a slash", "/products/a%2fb", 404),
    get("a slug with dots", "/products/..%2f..%2fetc%2fpasswd", 404),
    get("a slug that is not UTF-8", "/products/%ff%fe", 404),
    get("a slug with a surrogate", "/products/%ED%A0%80", 404),
    get("a slug with an apostrophe", "/products/'%20or%201=1--", 404),
    get("a slug of 8,000 characters", "/products/" + "a" * 8_000, 404),
    get("an empty slug", "/products/", 404),
    get("a NUL in the path", "/products/a%00b", 400),
    get("a NUL at the end of the path", "/orders%00", 400),
    get("a line break in the path", "/products/a%0d%0ab", 400),
    get("an address of 9,000 characters", "/products/" + "a" * 9_000, 414),
    get("a path nobody has", "/nothing/here", 404),
    get("a picture nobody has", "/pictures/..%2f..%2fx.svg", 404),
    get("a problem nobody has", "/problems/%3Cscript%3E", 404),
    own("an order that is no UUID", "/orders/42", 400, "order_id"),
    own("an order with a NUL", "/orders/%00", 400),
    own("an order in braces", "/orders/%7B" + UNKNOWN_ID + "%7D", 400, "order_id"),
    own("an order that is not there", f"/orders/{UNKNOWN_ID}", 404),
    own("a payment that is no UUID", "/payments/x", 400, "payment_id"),
    own("a payment that is not there", f"/payments/{UNKNOWN_ID}", 404),
    get("an order without a token", f"/orders/{ORDER}", 401),
]

PARAMETERS = [
    get("a sort nobody knows", "/products?sort=colour", 400, "sort"),
    get("relevance of nothing", "/products?sort=relevance", 400, "sort"),
    get("a category nobody has", "/products?category=no-such-category", 400, "category"),
    get("a category with a NUL", "/products?category=%00", 400, "category"),
    get("a category that is no slug", "/products?category=A%20B", 400, "category"),
    get("an empty query", "/products?q=", 400, "q"),
    get("a query with a NUL", "/products?q=a%00b", 400, "q"),
    get("a query of 101 characters", "/products?q=" + "a" * 101, 400, "q"),
    get("two queries", "/products?q=a&q=b", 400, "q"),
    get("a limit of nothing", "/products?limit=0", 400, "limit"),
    get("a limit of 101", "/products?limit=101", 400, "limit"),
    get("a limit in words", "/products?limit=ten", 400, "limit"),
    get("a limit with a line through it", "/products?limit=1_0", 400, "limit"),
    get("a limit in other digits", "/products?limit=%D9%A1", 400, "limit"),
    get("a limit of 5,000 digits", "/products?limit=" + "9" * 5_000, 400, "limit"),
    get("a price below nothing", "/products?min_price=-1", 400, "min_price"),
    get("a price with a fraction", "/products?max_price=1.5", 400, "max_price"),
    get("a price beyond a column", "/products?max_price=99999999999999999", 400, "max_price"),
    get("a price that is not a number", "/products?min_price=NaN", 400, "min_price"),
    get("the lowest above the highest", "/products?min_price=2&max_price=1", 400, "min_price"),
    get("a cursor of rubbish", "/products?cursor=rubbish", 400, "cursor"),
    get("a cursor that is not ASCII", "/products?cursor=%F0%9F%98%80", 400, "cursor"),
    get("an empty cursor", "/products?cursor=", 400, "cursor"),
    get("a cursor of 501 characters", "/products?cursor=" + "A" * 501, 400, "cursor"),
    get("a cursor of JSON nobody wrote", "/products?cursor=e30", 400, "cursor"),
]

HEADERS = [
    keyed("no key"),
    keyed("an empty key", ""),
    keyed("a key of quotes", '""'),
    keyed("a key with a space", "a b"),
    keyed("a key of 256 characters", "k" * 256),
    keyed("a key that is not ASCII", "\xe9"),
    keyed("two keys", "a", "b"),
    typed("no type"),
    typed("text", "text/plain"),
    typed("a form", "application/x-www-form-urlencoded"),
    typed("another encoding", "application/json; charset=utf-16"),
    typed("almost JSON", "application/jsonp"),
    typed("two types in one", "application/json, text/plain"),
    Case(
        "a token nobody has",
        request("GET", f"/orders/{ORDER}", "authorization: Bearer " + "A" * 43),
        401,
    ),
]

BODIES = [
    long_body(BODY_LIMIT_BYTES + 1),
    long_body(1_000_000),
    Case("a long body in chunks", chunked(BODY_LIMIT_BYTES), 413),
    post("no body", b"", 400),
    post("half an object", b'{"lines":', 400),
    post("two documents", line() + "{}", 400),
    post("a NUL after the document", line() + "\x00", 400),
    post("a byte order mark", b"\xef\xbb\xbf" + line().encode(), 400),
    post("UTF-16", line().encode("utf-16"), 400),
    post("bytes that are not UTF-8", b'{"lines":"\xff"}', 400),
    post("a depth of 100,000", b"[" * 100_000, 413),
    post("a depth of 30,000", b"[" * 30_000 + b"]" * 30_000, 400),
    post("objects 10,000 deep", b'{"a":' * 10_000 + b"1" + b"}" * 10_000, 400),
    post("a depth of 500", b'{"lines":' + b"[" * 500 + b"]" * 500 + b"}", 422, "/lines/0"),
    post("NaN", line("NaN"), 400),
    post("infinity", line("Infinity"), 400),
    post("a number of 1,000,000 digits", line("1" * 1_000_000), 413),
    post("a number of 60,000 digits", line("1" * 60_000), 400),
    post("a lone surrogate", line(variant='"\\ud800"'), 400),
    post("a surrogate as a name", '{"\\udfff":1}', 400),
    post("a name twice", line(more=',"quantity":2'), 400),
    post("a name twice, written differently", line(more=',"\\u0071uantity":2'), 400),
    post("a list", "[]", 422, "/"),
    post("null", "null", 422, "/"),
    post("a text", '"order"', 422, "/"),
    post("an empty object", "{}", 422, "/"),
    post("4,000 names", json.dumps({f"n{n}": n for n in range(4_000)}), 422, "/n0"),
    post("a name with a line break", '{"a\\r\\nb":1}', 422, "/a\r\nb"),
]

ORDERS = [
    post("no lines", '{"lines":[]}', 422, "/lines"),
    post("lines that are no list", '{"lines":{}}', 422, "/lines"),
    post("51 lines", f'{{"lines":[{LINE_51}]}}', 422, "/lines"),
    post("30,000 lines", '{"lines":[' + "1," * 30_000 + "1]}", 422, "/lines"),
    post("a line that is a number", '{"lines":[1]}', 422, "/lines/0"),
    post("a variant on two lines", f'{{"lines":[{line()[10:-2]},{line()[10:-2]}]}}', 422, "/lines"),
    post("no quantity", f'{{"lines":[{{"variant_id":"{VARIANT}"}}]}}', 422, QUANTITY),
    post("a quantity below nothing", line("-1"), 422, QUANTITY),
    post("a quantity of nothing", line("0"), 422, QUANTITY),
    post("a quantity of 101", line("101"), 422, QUANTITY),
    post("a quantity beyond a column", line("9223372036854775808"), 422, QUANTITY),
    post("a quantity with a fraction", line("1.5"), 422, QUANTITY),
    post("a quantity written as a fraction", line("1.0"), 422, QUANTITY),
    post("a quantity in powers", line("1e2"), 422, QUANTITY),
    post("a quantity as text", line('"1"'), 422, QUANTITY),
    post("a quantity that is true", line("true"), 422, QUANTITY),
    post("a quantity of null", line("null"), 422, QUANTITY),
    post("a quantity that is a list", line("[1]"), 422, QUANTITY),
    post("a variant that is no UUID", line(variant='"x"'), 422, "/lines/0/variant_id"),
    post("a variant that is a number", line(variant="1"), 422, "/lines/0/variant_id"),
    post("a variant in braces", line(variant=f'"{{{VARIANT}}}"'), 422, "/lines/0/variant_id"),
    post("a variant with a NUL", line(variant=f'"{VARIANT}\\u0000"'), 422, "/lines/0/variant_id"),
    post("a variant not for sale", line(variant=f'"{UNKNOWN_ID}"'), 422, "/lines/0/variant_id"),
    post("a currency nobody sells in", line(top=',"currency":"XTS"'), 422, "/currency"),
    post("a currency in small letters", line(top=',"currency":"usd"'), 422, "/currency"),
    post("a currency with a line break", line(top=',"currency":"USD\\n"'), 422, "/currency"),
    post("a currency that is a number", line(top=',"currency":840'), 422, "/currency"),
    post("a price of the client's own", line(more=',"price":1'), 422, "/lines/0/price"),
    post("a price in minor units", line(more=',"unit_price":{}'), 422, "/lines/0/unit_price"),
    post("a state", line(top=',"state":"paid"'), 422, "/state"),
    post("a role", line(top=',"role":"operator"'), 422, "/role"),
    post("a customer", line(top=f',"customer_id":"{UNKNOWN_ID}"'), 422, "/customer_id"),
    post("a total", line(top=',"total_minor":0'), 422, "/total_minor"),
]

METHOD = "/payment_method"
PAYMENTS = [
    pay("no method", "{}", 422, METHOD),
    pay("a method that is a number", '{"payment_method":4111111111111111}', 422, METHOD),
    pay("a card number", '{"payment_method":"4111111111111111"}', 422, METHOD),
    pay("a method with a line break", '{"payment_method":"tok_approve\\n"}', 422, METHOD),
    pay("a method of 65 characters", f'{{"payment_method":"tok_{"a" * 65}"}}', 422, METHOD),
    pay("an amount", '{"payment_method":"tok_approve","amount_minor":1}', 422, "/amount_minor"),
    pay("an order that is no UUID", '{"payment_method":"tok_approve"}', 400, "order_id", "x"),
    pay("no such order", '{"payment_method":"tok_approve"}', 404, None, UNKNOWN_ID),
]

CASES = [*PATHS, *PARAMETERS, *HEADERS, *BODIES, *ORDERS, *PAYMENTS]


def sent(stack: RunningStack, buyer: Buyer, data: bytes) -> Answer:
    return exchange(stack.url, filled(data.replace(b"<key>", new_key().encode()), buyer))


@pytest.fixture(scope="module", autouse=True)
async def nothing_happens(stack: RunningStack, buyer: Buyer) -> Any:
    """After all that: no order, payment, key or movement more than before, and the books hold."""
    before = await counted(stack)
    yield
    assert await counted(stack) == before
    # Laboratories charge at the stack's provider for databases of their own, which this one is not.
    prove = [sys.executable, "-m", "infra.cli", "prove", "--without-provider",
        "--data-dir", str(stack.data_dir)]  # fmt: skip
    proof = await asyncio.to_thread(
        subprocess.run, prove, capture_output=True, text=True, timeout=60, check=False
    )
    assert proof.returncode == 0, proof.stdout + proof.stderr


async def counted(stack: RunningStack) -> dict[str, int]:
    tables = ("customers", "orders", "payments", "idempotency_keys", "stock_journal")
    connection = await asyncpg.connect(stack.dsn("tercet_owner"))
    try:
        return {
            table: await connection.fetchval(f"select count(*) from {table}")  # noqa: S608  # the names above
            for table in tables
        }
    finally:
        await connection.close()


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_bad_input_is_a_problem_that_names_the_field(
    stack: RunningStack, buyer: Buyer, case: Case
) -> None:
    answer = sent(stack, buyer, case.data)
    assert_is_problem(answer, case.status)
    if case.field is not None:
        assert case.field in answer.fields
    # However much is wrong, saying so is short.
    assert len(answer.body) < 8_192


FORGED: Final[dict[str, list[Any]]] = {
    "newest": ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2020-01-01", 1, None],
    "price": [2**63, -(2**63) - 1, 10**30, 1e300, 1.5, True, "600", None, []],
    "-price": [2**63, 10**30],
    "popular": ["NaN", "inf", True, None, {}, "9" * 300],
}


@pytest.mark.parametrize("sort", FORGED)
def test_a_forged_cursor_is_refused(stack: RunningStack, buyer: Buyer, sort: str) -> None:
    """A cursor is not secret: anybody can write one with a value that no column can hold."""
    target = f"/products?limit=2&sort={sort}"
    first = exchange(stack.url, request("GET", target))
    cursor = first.document["next_cursor"]
    scope, match, _, product_id = json.loads(base64.urlsafe_b64decode(cursor + "=="))
    for value in FORGED[sort]:
        forged = json.dumps([scope, match, value, product_id]).encode()
        text = base64.urlsafe_b64encode(forged).rstrip(b"=").decode()
        answer = exchange(stack.url, request("GET", f"{target}&cursor={text}"))
        assert_is_problem(answer, 400)
        assert answer.fields == ["cursor"], value


def test_a_parameter_nobody_knows_changes_nothing(stack: RunningStack) -> None:
    plain = exchange(stack.url, request("GET", "/products?limit=3"))
    more = exchange(stack.url, request("GET", "/products?limit=3&utm_source=x&%00=1"))
    assert (more.status, more.body) == (200, plain.body)


@pytest.mark.parametrize("quantity", ["0", "-5", "1000000000000"])
def test_stock_that_can_not_move_is_refused(
    stack: RunningStack, buyer: Buyer, quantity: str
) -> None:
    answer = moved(stack, buyer, quantity, '"counted"')
    assert_is_problem(answer, 422)
    assert answer.fields == ["/quantity"]


def test_a_reason_with_a_nul_is_refused(stack: RunningStack, buyer: Buyer) -> None:
    answer = moved(stack, buyer, "1", '"a\\u0000b"')
    assert_is_problem(answer, 422)
    assert answer.fields == ["/reason"]


def moved(stack: RunningStack, buyer: Buyer, quantity: str, reason: str) -> Answer:
    body = f'{{"variant_id":"{VARIANT}","kind":"receive","quantity":{quantity},"reason":{reason}}}'
    body = body.replace(VARIANT, buyer.goods.variant_id)
    token = f"authorization: Bearer {stack.secret('operator_token')}"
    target = "/operator/stock-movements"
    return exchange(stack.url, request("POST", target, JSON, token, body=body.encode()))
