"""What access is told of pages: the routes that are pages, and the parameters that matter."""

from __future__ import annotations

import httpx
import pytest

from services.business.endpoints import PUBLIC, page_rules
from services.business.schemas import ListQuery
from tests.shopping import Books

POSITION = "x-internal-position"
MIN_POSITION = "x-internal-min-position"
HELD_BY = ("cache-control", "etag", "cache-tag", POSITION)


@pytest.fixture
async def slug(books: Books) -> str:
    return (await books.goods()).slug


async def test_the_pages_that_access_is_told_of_are_those_that_may_be_held(
    business: httpx.AsyncClient, books: Books, slug: str
) -> None:
    ids = {"flash_sale_id": await books.flash_sale((await books.goods()).variant)}
    told = {rule["path"] for rule in (await business.get("/internal/pages")).json()["pages"]}
    open_routes = [e.path for e in PUBLIC if e.method == "GET" and e.guard == "nobody"]
    assert told <= set(open_routes)
    for path in open_routes:
        answer = (await business.get(path.format(slug=slug, **ids))).raise_for_status()
        may_be_held = "s-maxage" in answer.headers["cache-control"]
        assert may_be_held == (path in told), path
        assert all(name in answer.headers for name in HELD_BY) == may_be_held, path


async def test_parameters_that_are_told_matter_and_no_others(
    business: httpx.AsyncClient, slug: str
) -> None:
    rules = (await business.get("/internal/pages")).json()["pages"]
    assert rules == page_rules()
    for rule in rules:
        path = rule["path"].format(slug=slug)
        plain = await business.get(path)
        others = sorted({*ListQuery.model_fields, "utm_source", "fbclid", "x"} - {*rule["query"]})
        noise = await business.get(path, params=dict.fromkeys(others, "%"))
        assert (noise.status_code, noise.headers["etag"]) == (200, plain.headers["etag"])
        for name in rule["query"]:  # no parameter takes a NUL
            refused = await business.get(path, params={name: "\0"})
            assert refused.status_code == 400, name
    assert {name for rule in rules for name in rule["query"]} == {*ListQuery.model_fields}


async def test_a_page_that_is_known_says_all_that_the_page_itself_would(
    business: httpx.AsyncClient, slug: str
) -> None:
    for path in (f"/products/{slug}", "/products", "/categories"):
        page = await business.get(path)
        known = await business.get(path, headers={"if-none-match": page.headers["etag"]})
        assert (known.status_code, known.content) == (304, b"")
        said = [name for name in HELD_BY if name != POSITION]  # it may be read anew meanwhile
        assert [known.headers[name] for name in said] == [page.headers[name] for name in said]
        assert int(known.headers[POSITION]) >= int(page.headers[POSITION]) > 0


async def test_a_page_is_not_behind_the_position_that_access_names(
    business: httpx.AsyncClient, books: Books, slug: str
) -> None:
    paths = (f"/products/{slug}", "/products", "/categories")
    before = [int((await business.get(path)).headers[POSITION]) for path in paths]
    await books.rows("select pg_logical_emit_message(true, 'test', 'something is written')")
    now = int(await books.value("select (pg_current_wal_lsn() - '0/0')::bigint"))
    assert max(before) < now
    for path in paths:
        answer = await business.get(path, headers={MIN_POSITION: str(now)})
        assert int(answer.headers[POSITION]) >= now
    again = await business.get(paths[0])
    assert int(again.headers[POSITION]) >= now  # it is held, and used where less will do


@pytest.mark.parametrize("position", ["", "-1", "1.5", "0x10", "²", "1" * 20, "1, 2"])
async def test_a_position_that_is_none_is_refused(
    position: str, business: httpx.AsyncClient, slug: str
) -> None:
    headers = {MIN_POSITION.encode(): position.encode("latin-1")}
    answer = await business.get(f"/products/{slug}", headers=headers)
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["field"] == MIN_POSITION
