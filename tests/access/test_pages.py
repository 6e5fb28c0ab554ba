"""What is held, for how long, and what clients get: RFC 9111 and RFC 5861, row by row."""

from __future__ import annotations

import time
import timeit
from email.utils import parsedate_to_datetime
from typing import NamedTuple

import pytest

from services.deadline import Deadline
from services.exchange import Headers, Response
from services.problems import Unavailable
from tests.access.held import BODY, CAT, PATIENT, PUBLIC, Got, Shop, answer, confirmed, shop
from tests.faults.waiting import until


class Row(NamedTuple):
    """What business says first, and what becomes of the second GET.

    hit: answered from memory. stale: answered from memory while it is fetched again. asked:
    business is asked first. passed: passed on by itself, because the answer must not be held.
    """

    name: str
    then: str
    cache_control: str | None = PUBLIC
    status: int = 200
    more: tuple[tuple[str, str], ...] = ()
    age_s: int | None = None


SWR = "stale-while-revalidate=30"
ROWS = [
    # What may be held: RFC 9111 3, narrowed to explicit public and s-maxage.
    Row("public and s-maxage", "hit", PUBLIC),
    Row("in capitals", "hit", "PUBLIC, S-MaxAge=10"),
    Row("without spaces", "hit", "public,s-maxage=10"),
    Row("with empty members", "hit", ", public ,, s-maxage=10,"),
    Row("with tabs", "hit", "public\t,\ts-maxage=10"),
    Row("beside max-age=0, which is for private caches", "hit", "public, max-age=0, s-maxage=10"),
    Row("beside unknown directives", "hit", 'public, s-maxage=10, immutable, foo="a, b=c", x=1'),
    Row("with a quoted number", "hit", 'public, s-maxage="10"'),
    Row("with leading zeros", "hit", "public, s-maxage=0010"),
    Row("no Cache-Control", "passed", None),
    Row("an empty Cache-Control", "passed", ""),
    Row("only public", "passed", "public"),
    Row("only s-maxage", "passed", "s-maxage=10"),
    Row("public and max-age", "passed", "public, max-age=10"),
    Row("a directive inside a quoted string", "passed", 'public, x="s-maxage=10"'),
    Row("public only as a part of a name", "passed", "publicity, s-maxage=10"),
    Row("public with something behind it", "passed", "public;x, s-maxage=10"),
    Row("no-store", "passed", "public, s-maxage=10, no-store"),
    Row("no-store in capitals", "passed", "public, s-maxage=10, No-Store"),
    Row("no-store with an argument", "passed", "public, s-maxage=10, no-store=x"),
    Row("no-store with something behind it", "passed", "public, s-maxage=10, no-store;x"),
    Row("private", "passed", "public, s-maxage=10, private"),
    Row("private for a field", "passed", 'public, s-maxage=10, private="x-a, x-b"'),
    Row("private with an open quote", "passed", 'public, private="x, s-maxage=10'),
    Row("no-cache", "passed", "public, s-maxage=10, no-cache"),
    Row("no-cache for a field", "passed", 'public, s-maxage=10, no-cache="x-a"'),
    Row("Cache-Control in two lines", "hit", "public", more=(("cache-control", "s-maxage=10"),)),
    Row("no-store in a second line", "passed", more=(("cache-control", "no-store"),)),
    Row("Set-Cookie", "passed", more=(("set-cookie", "a=1"),)),
    Row("an empty Set-Cookie", "passed", more=(("set-cookie", ""),)),
    Row("Vary on Accept-Encoding", "hit", more=(("vary", "Accept-Encoding"),)),
    Row("Vary on it twice", "hit", more=(("vary", "accept-encoding, Accept-Encoding"),)),
    Row("an empty Vary", "hit", more=(("vary", ""),)),
    Row("Vary on Cookie", "passed", more=(("vary", "Cookie"),)),
    Row("Vary on more", "passed", more=(("vary", "Accept-Encoding, Accept-Language"),)),
    Row("Vary in two lines", "passed", more=(("vary", "accept-encoding"), ("vary", "origin"))),
    Row("Vary on everything", "passed", more=(("vary", "*"),)),
    Row("a body encoded by business", "passed", more=(("content-encoding", "gzip"),)),
    Row("a body said to be plain", "hit", more=(("content-encoding", "identity"),)),
    Row("Pragma, which is for requests", "hit", more=(("pragma", "no-cache"),)),
    Row("Expires in the past", "hit", more=(("expires", "Thu, 01 Jan 1970 00:00:00 GMT"),)),
    Row("Expires that is no date", "hit", more=(("expires", "0"),)),
    # Statuses.
    Row("404", "hit", status=404),
    Row("410", "hit", status=410),
    Row("204", "passed", status=204),
    Row("206", "passed", status=206),
    Row("301", "passed", status=301),
    Row("302", "passed", status=302),
    Row("400", "passed", status=400),
    Row("403", "passed", status=403),
    Row("404 without permission", "passed", "no-store", status=404),
    # Freshness: RFC 9111 4.2, malformed values 4.2.1, too large ones 1.2.2.
    Row("Age below the lifetime", "hit", age_s=3),
    Row("Age of the whole lifetime", "asked", age_s=10),
    Row("Age above the lifetime", "asked", age_s=9999),
    Row("Age that is no number", "hit", more=(("age", "old"),)),
    Row("a negative Age", "hit", more=(("age", "-20"),)),
    Row("Age twice: the first counts", "hit", more=(("age", "1"), ("age", "99"))),
    Row("Age as a list: the first counts", "asked", more=(("age", "99, 1"),)),
    Row("Age too large for any number", "asked", more=(("age", "9" * 400),)),
    Row("s-maxage=0", "asked", "public, s-maxage=0"),
    Row("s-maxage of many years", "hit", "public, s-maxage=99999999999999999999"),
    Row("s-maxage of a thousand digits", "hit", "public, s-maxage=" + "9" * 1000),
    Row("s-maxage that is no number", "asked", "public, s-maxage=abc"),
    Row("s-maxage without a number", "asked", "public, s-maxage"),
    Row("s-maxage with an empty number", "asked", "public, s-maxage="),
    Row("a negative s-maxage", "asked", "public, s-maxage=-1"),
    Row("a signed s-maxage", "asked", "public, s-maxage=+10"),
    Row("a broken s-maxage", "asked", "public, s-maxage=10.5"),
    Row("s-maxage with a unit", "asked", "public, s-maxage=10s"),
    Row("s-maxage with spaces about =", "asked", "public, s-maxage = 10"),
    Row("s-maxage in other digits", "asked", "public, s-maxage=\u0661"),
    Row("s-maxage twice the same", "hit", "public, s-maxage=10, s-maxage=10"),
    Row("s-maxage twice differently", "asked", "public, s-maxage=10, s-maxage=20"),
    Row("s-maxage twice, once malformed", "asked", "public, s-maxage=10, s-maxage=x"),
    # Stale: RFC 5861, and what forbids it (RFC 9111 4.2.4, 5.2.2).
    Row("stale while it is fetched again", "stale", f"{PUBLIC}, {SWR}", age_s=11),
    Row("stale for longer than is allowed", "asked", f"{PUBLIC}, {SWR}", age_s=41),
    Row("stale with s-maxage=0", "stale", f"public, s-maxage=0, {SWR}"),
    Row("a malformed s-maxage is never used stale", "asked", f"public, s-maxage=x, {SWR}"),
    Row("a malformed time for stale", "asked", f"{PUBLIC}, stale-while-revalidate=x", age_s=11),
    Row("must-revalidate", "asked", f"{PUBLIC}, {SWR}, must-revalidate", age_s=11),
    Row("proxy-revalidate", "asked", f"{PUBLIC}, {SWR}, proxy-revalidate", age_s=11),
    Row("must-revalidate while fresh", "hit", f"{PUBLIC}, must-revalidate"),
    Row("only stale-if-error", "asked", f"{PUBLIC}, stale-if-error=60", age_s=11),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_what_is_held_is_what_the_standards_allow(row: Row) -> None:
    more: Headers = [(name.encode(), value.encode()) for name, value in row.more]
    said = answer(row.cache_control, status=row.status, age=row.age_s, more=more)
    async with shop() as front:
        front.business.always(said)
        first = await front.get()
        assert (first is said) == (row.then == "passed")
        if isinstance(first, Got):
            assert (first.status, first.body) == (row.status, BODY)
        second = await front.get()
        await until(lambda: front.pages._flights.of(CAT) is None, within_s=5, what="fetches end")
        assert len(front.business.asked) == {"asked": 2, "stale": 2}.get(row.then, 1)
        if row.then == "passed":
            assert second is None
            assert front.pages.entries == 0
            return
        assert isinstance(second, Got)
        assert second.said.split(";")[0] == ("fwd=stale" if row.then == "asked" else "hit")


@pytest.mark.parametrize(
    ("match", "status"),
    [
        (b'"1"', 304),
        (b'W/"1"', 304),
        (b'"0", "1"', 304),
        (b'"0","1" , W/"2"', 304),
        (b'"a,b", "1"', 304),
        (b"*", 304),
        (b" * ", 304),
        (b'"2"', 200),
        (b'"11"', 200),
        (b'"a\\"1"', 200),
        (b"1", 200),
        (b'x"1"', 200),
        (b'"1" x', 200),
        (b'w/"1"', 200),
        (b"", 200),
        (b",", 200),
    ],
)
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
@pytest.mark.parametrize("etag", ['"1"', 'W/"1"'])
async def test_if_none_match_is_compared_weakly(
    match: bytes, status: int, method: bytes, etag: str
) -> None:
    more: Headers = [(b"expires", b"0"), (b"content-location", b"/c"), (b"x-other", b"1")]
    async with shop() as front:
        await front.filled(answer(etag=etag, more=more))
        got = front.at_once(method=method, match=match)
        assert got is not None
        assert got.status == status
        # RFC 9110 15.4.5
        for name in ("cache-control", "content-location", "date", "etag", "expires", "vary", "age"):
            assert name in got.headers
        assert got.headers["etag"] == etag
        assert ("x-other" in got.headers) == ("content-length" in got.headers) == (status == 200)
        assert got.body == (BODY if (method, status) == (b"GET", 200) else b"")


async def test_only_what_would_be_200_is_conditional() -> None:
    async with shop() as front:
        await front.filled(answer(status=404))
        got = front.at_once(match=b'"1"')
        assert got is not None
        assert got.status == 404


async def test_a_fetch_for_a_conditional_request_is_not_conditional_itself() -> None:
    async with shop() as front:
        front.business.always(answer())
        got = await front.page(match=b'"1"')
        assert got.status == 304
        assert front.business.asked[0].extra == {}


async def test_head_says_what_get_would_and_fills_for_it() -> None:
    async with shop() as front:
        front.business.always(answer())
        head = await front.page(method=b"HEAD")
        assert (head.status, head.body) == (200, b"")
        assert head.headers["content-length"] == str(len(BODY))
        got = front.at_once()
        assert got is not None
        assert got.body == BODY


async def test_other_methods_are_not_answered_from_memory() -> None:
    async with shop() as front:
        await front.filled(answer())
        assert await front.get(method=b"POST") is None
        assert front.pages.stale_total == front.pages.hits_total == 0


async def test_clients_get_no_header_that_is_meant_for_access() -> None:
    more: Headers = [
        *((b"server", b"x"), (b"date", b"x"), (b"x-powered-by", b"x"), (b"x-request-id", b"x")),
        *((b"x-internal-other", b"x"), (b"connection", b"x-hop"), (b"x-hop", b"1")),
        *((b"keep-alive", b"x"), (b"transfer-encoding", b"chunked"), (b"content-length", b"9")),
        *((b"x-kept", b"1"), (b"x-content-type-options", b"nosniff")),
    ]
    async with shop() as front:
        led = await front.filled(answer(more=more))
        kept = front.at_once(close=True)
        assert kept is not None
        expected = {
            *("content-type", "cache-control", "x-kept", "content-length", "etag", "vary", "date"),
            *("x-content-type-options", "age", "cache-status"),
        }
        assert set(led.headers) == expected
        assert set(kept.headers) == expected | {"connection"}
        assert kept.headers["connection"] == "close"
        assert kept.headers["content-length"] == str(len(BODY))
        assert kept.headers["vary"].lower() == "accept-encoding"
        date = parsedate_to_datetime(kept.headers["date"]).timestamp()
        assert abs(time.time() - date) < 2


async def test_an_answer_whose_header_would_start_a_new_line_is_given_to_nobody() -> None:
    async with shop() as front:
        front.business.always(answer(more=[(b"x-a", b"1\r\nset-cookie: a=1")]))
        with pytest.raises(Exception, match="wrong on our side"):
            await front.get()


async def test_age_counts_from_what_business_said_and_ttl_is_what_is_left() -> None:
    async with shop() as front:
        await front.filled(answer(PUBLIC, age=3))
        got = front.at_once()
        assert got is not None
        age_s = int(got.headers["age"])
        assert 3 <= age_s <= 4
        assert got.said in (f"hit; ttl={9 - age_s}", f"hit; ttl={10 - age_s}")


async def test_ready_bytes_are_remade_each_second_with_the_date_of_that_second() -> None:
    async with shop() as front:
        await front.filled(answer())
        first = front.at_once()
        assert first is not None

        def later() -> bool:
            got = front.at_once()
            assert got is not None and first is not None
            assert abs(time.time() - parsedate_to_datetime(got.headers["date"]).timestamp()) < 1.1
            return got.headers["date"] != first.headers["date"]

        await until(later, within_s=2, what="another second")
        page = front.pages._held[CAT]
        data = front.pages.answer(b"GET", CAT, b"", b"", False)
        assert data is front.pages.answer(b"GET", CAT, b"", b"", False)
        assert page.ready_bytes < 2 * len(data or b"")


async def test_cache_status_says_how_an_answer_was_come_by() -> None:
    async with shop() as front:
        first, second = front.asking(), front.asking()
        (await front.business.nth(1)).answer(answer(PATIENT, age=10))
        assert (await first).said == "fwd=miss; stored"
        assert (await second).said == "fwd=miss; collapsed"
        stale = front.at_once()
        assert stale is not None
        assert stale.said in ("hit; ttl=0", "hit; ttl=-1")
        (await front.business.nth(2)).answer(confirmed())
        await until(lambda: front.pages.revalidated_total == 1, within_s=5, what="confirmed")
        fresh = front.at_once()
        assert fresh is not None
        assert fresh.said in ("hit; ttl=9", "hit; ttl=10")
        front.pages.purge(["cat"], 200)
        purged = front.asking()
        (await front.business.nth(3)).answer(confirmed(position=200))
        assert (await purged).said == "fwd=stale; fwd-status=304; stored"


async def test_a_304_renews_what_is_held_and_its_headers() -> None:
    async with shop() as front:
        await front.filled(answer(PUBLIC, age=10, more=[(b"x-a", b"old"), (b"x-b", b"kept")]))
        asked = front.asking()
        fetch = await front.business.nth(1)
        assert fetch.extra[b"if-none-match"] == b'"1"'
        more = [(b"x-a", b"new"), (b"content-type", b"text/html"), (b"content-length", b"0")]
        fetch.answer(confirmed("public, s-maxage=77", tags="cat,dog", more=more))
        got = await asked
        assert (got.status, got.body) == (200, BODY)
        assert (got.headers["x-a"], got.headers["x-b"]) == ("new", "kept")
        assert got.headers["content-type"] == "application/json"
        assert got.headers["content-length"] == str(len(BODY))
        assert got.headers["cache-control"] == "public, s-maxage=77"
        assert front.at_once() is not None
        front.pages.purge(["dog"], 200)
        assert front.at_once() is None


@pytest.mark.parametrize(
    "odd",
    [confirmed(etag='"2"'), confirmed("no-store"), confirmed(more=[(b"set-cookie", b"a=1")])],
    ids=["of another page", "not to be held", "with a cookie"],
)
async def test_a_304_that_confirms_nothing_is_asked_again_without_a_condition(
    odd: Response,
) -> None:
    async with shop() as front:
        await front.filled(answer(PUBLIC, age=10))
        asked = front.asking()
        (await front.business.nth(1)).answer(odd)
        again = await front.business.nth(2)
        assert b"if-none-match" not in again.extra
        again.answer(answer(body=b"new"))
        assert (await asked).body == b"new"


async def test_a_304_that_nobody_asked_for_ends() -> None:
    async with shop() as front:
        front.business.always(confirmed())
        with pytest.raises(Exception, match="wrong name"):
            await front.get()


async def test_what_must_not_be_held_replaces_what_was() -> None:
    async with shop() as front:
        await front.filled(answer(age=99))
        front.business.always(answer("no-store", status=404))
        assert isinstance(await front.get(), Response)
        assert front.pages.entries == front.pages.bytes_held == 0
        assert await front.get() is None


async def test_random_parameters_neither_miss_nor_fill() -> None:
    async with shop() as front:
        await front.filled(answer())
        for number in range(50):
            assert front.at_once(CAT + b"?utm_source=%d&x[]=%d" % (number, number)) is not None
        await front.filled(answer(), b"/products?limit=5&category=a")
        assert front.at_once(b"/products?category=a&utm=1&limit=5") is not None
        assert front.at_once(b"/products?category=b&limit=5") is None
        assert front.pages.entries == 2


async def test_what_is_no_page_is_passed_on() -> None:
    async with shop() as front:
        for target in (b"/products/cat/stock", b"/orders", b"/products/", b"/", b"*", b"/a%"):
            assert not front.pages.is_page(target)
            assert await front.get(target) is None
        assert front.pages.is_page(b"/products/c%61t?x=1")
        assert front.business.asked == []


async def test_pages_of_routes_that_are_pages_no_more_are_let_go() -> None:
    async with shop() as front:
        await front.filled(answer())
        await front.filled(answer(), b"/categories")
        front.pages.learn([rule for rule in front.pages._rules if rule.path != "/categories"])
        assert front.at_once(b"/categories") is None
        assert front.at_once() is not None


async def test_a_page_too_large_for_the_memory_is_given_and_not_held() -> None:
    async with shop(memory_bytes=100_000) as front:
        front.business.always(answer(body=b"x" * 10_000))
        got = await front.page()
        assert (len(got.body), got.said) == (10_000, "fwd=miss")
        assert front.pages.bytes_held == 0
        assert await front.get() is None


async def test_the_memory_that_pages_take_stays_within_its_bound() -> None:
    async with shop(memory_bytes=200_000) as front:
        front.business.always(answer())
        for number in range(300):
            target = b"/products/p%d" % number
            await front.page(target)
            for accept in (b"", b"br", b"gzip", b"gzip, br;q=0.5, zstd"):
                front.at_once(target, accept=accept)
                front.at_once(target, accept=accept, close=True, method=b"HEAD")
            assert front.pages.bytes_held <= 200_000
        assert front.pages.evicted_total > 100
        assert front.pages.bytes_held > 150_000
        held = front.pages._held.values()
        await until(lambda: not any(page.jobs for page in held), within_s=5, what="encoded")
        assert front.pages.bytes_held <= 200_000
        for page in held:
            assert page.size_bytes == page.cost_bytes()


async def test_a_page_asked_for_again_stays_while_a_crawl_passes() -> None:
    async with shop(memory_bytes=100_000) as front:
        front.business.always(answer())
        await front.page()
        for _ in range(3):
            assert front.at_once() is not None
        for number in range(500):
            await front.page(b"/products/p%d" % number)
        assert front.at_once() is not None
        assert len(front.business.asked) == 501


@pytest.mark.alone
async def test_a_hit_costs_about_a_microsecond() -> None:
    """Not a figure, only a guard: ten times the usual cost is a mistake."""
    async with shop() as front:
        await front.filled(answer())
        ask = front.pages.answer
        runs = 20_000
        took_s = min(
            timeit.repeat(lambda: ask(b"GET", CAT, b"gzip, br", b"", False), number=runs, repeat=5)
        )
        assert took_s / runs < 5e-6


async def test_a_page_asked_for_while_this_server_stops_is_refused_at_once() -> None:
    front = Shop()
    waiting = front.asking()
    await front.business.nth(1)
    late = front.pages.obtain(b"GET", b"/categories", b"", b"", False, Deadline.after(5))
    await front.pages.aclose()
    with pytest.raises(Unavailable):
        await waiting
    late.close()
