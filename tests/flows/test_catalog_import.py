"""Importing, generating and stock keeping on a real PostgreSQL, from the command line too."""

from __future__ import annotations

import asyncio
import os
import pty
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from services.business.imports.files import catalog_file
from services.business.imports.loading import (
    CHUNK_PRODUCTS,
    StrictStop,
    Summary,
    generate_products,
    import_files,
)
from services.business.imports.rows import Finding
from services.business.stock_keeping import StockRefused, enter_stock
from services.data import catalog_load
from services.data.catalog_load import (
    BULK_PRODUCTS,
    LOAD_LOCK,
    LoadFailed,
    connected,
    loading,
)
from services.data.pool import Pool
from services.data.sources import Primary
from services.data.stock_journal import Kind
from tests.business.product_files import SAMPLES, cup, google_tsv, mug, no_progress, shopify_csv
from tests.running_stack import RunningStack, running_stack

# Names, columns and order of every index and constraint there is.
SHAPE = """
    select pg_get_indexdef(indexrelid) from pg_index where indrelid::regclass::text !~ '^pg_'
    union all
    select conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid)
    from pg_constraint where connamespace = 'public'::regnamespace
    order by 1
"""

# All that a generated catalog consists of, but for what the moment of loading decides.
CONTENT = """
    select md5(string_agg(line, '|' order by line)) from (
        select (to_jsonb(p) - 'search_vector')::text as line from products p
        union all select to_jsonb(v)::text from variants v
        union all select to_jsonb(i)::text from product_images i
        union all select to_jsonb(r)::text from related_products r
        union all select to_jsonb(r)::text from product_ratings r
        union all select to_jsonb(s)::text from stock s
        union all select to_jsonb(c)::text from categories c
    ) all_of_it
"""

JOURNAL_DIFFERS_FROM_STOCK = """
    select count(*) from stock s
    left join (
        select variant_id, sum(quantity) as quantity from stock_journal group by variant_id
    ) j using (variant_id)
    where s.received <> coalesce(j.quantity, 0) or s.available + s.held + s.sold <> s.received
"""


@dataclass
class Shop:
    """An empty catalog on a stack of its own, looked at as the superuser."""

    stack: RunningStack
    connection: asyncpg.Connection[asyncpg.Record]

    @property
    def owner(self) -> tuple[str, str]:
        return self.stack.environment["TERCET_OWNER_DSN"], self.stack.secret("owner_password")

    async def value(self, sql: str, *args: object) -> Any:
        return await self.connection.fetchval(sql, *args)

    async def column(self, sql: str, *args: object) -> list[Any]:
        return [row[0] for row in await self.connection.fetch(sql, *args)]

    async def tags(self) -> list[str]:
        """Tags written since this was last asked."""
        return await self.column(
            "with gone as (delete from outbox returning name, kind) "
            "select name from gone where kind = 'tag' order by name"
        )

    async def product_id(self, source_id: str) -> UUID:
        found: UUID = await self.value(
            "select product_id from products where source_id = $1", source_id
        )
        return found

    async def load(self, *paths: Path, strict: bool = False) -> tuple[Summary, list[Finding]]:
        bad: list[Finding] = []
        summary = await import_files(
            self.owner,
            [catalog_file(path) for path in paths],
            currency="USD",
            strict=strict,
            on_progress=no_progress,
            on_bad=bad.append,
            on_note=lambda _: None,
        )
        return summary, bad

    async def generate(self, products: int, seed: int = 1) -> Summary:
        return await generate_products(
            self.owner,
            products=products,
            seed=seed,
            currency="USD",
            on_progress=no_progress,
            on_bad=lambda finding: pytest.fail(str(finding)),
        )


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """Servers of our own, because these tests begin with no catalog at all."""
    data_dir = tmp_path_factory.mktemp("catalog") / "data"
    with running_stack(data_dir, "--servers-only") as stack:
        yield stack


@pytest.fixture
async def shop(servers: RunningStack) -> AsyncIterator[Shop]:
    connection = await asyncpg.connect(servers.dsn("postgres"))
    await connection.execute("set client_min_messages = warning")
    await connection.execute("truncate products, categories, outbox cascade")
    yield Shop(servers, connection)
    await connection.close()


@pytest.fixture
async def primary(servers: RunningStack) -> AsyncIterator[Primary]:
    pool = Pool(
        "primary",
        servers.environment["TERCET_PRIMARY_DSN"],
        password=servers.secret("app_password"),
        size=2,
        statement_timeout_ms=5000,
    )
    yield Primary(pool)
    await pool.close()


def tercet(stack: RunningStack, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "infra.cli", *arguments, "--data-dir", str(stack.data_dir)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def counts(summary: Summary) -> tuple[int, int, int, int]:
    return summary.new, summary.changed, summary.unchanged, summary.skipped


async def test_all_three_formats_import_and_a_second_import_changes_nothing(shop: Shop) -> None:
    paths = [SAMPLES / name for name in ("shopify.csv", "google.tsv", "google.xml")]
    summary, bad = await shop.load(*paths)
    assert (counts(summary), bad) == ((11, 0, 0, 0), [])
    before = await shop.value(CONTENT)
    await shop.tags()
    summary, bad = await shop.load(*paths)
    assert (counts(summary), bad) == ((0, 0, 11, 0), [])
    assert await shop.value(CONTENT) == before
    assert await shop.tags() == []


async def test_an_imported_product_is_stored_whole(shop: Shop) -> None:
    await shop.load(SAMPLES / "shopify.csv")
    row = await shop.connection.fetchrow(
        "select * from products where source_id = 'tidemark-linen-shirt'"
    )
    assert row is not None
    assert (row["slug"], row["source"], row["currency"]) == (
        "tidemark-linen-shirt",
        "shopify",
        "USD",
    )
    assert row["price_from_minor"] == 5900
    assert row["category_slug"] == "shirts"
    assert "Shell buttons" in row["search_text"]
    assert row["search_vector"] is not None
    images = await shop.column(
        "select url from product_images where product_id = $1 order by position", row["product_id"]
    )
    assert len(images) == 4
    skus = await shop.column(
        "select sku from variants where product_id = $1 order by position", row["product_id"]
    )
    assert skus == ["TM-LS-SAND-S", "TM-LS-SAND-M", "TM-LS-INDI-M"]


async def test_new_variants_begin_their_stock_with_the_quantity_of_the_file(shop: Shop) -> None:
    await shop.load(SAMPLES / "shopify.csv")
    rows = await shop.connection.fetch(
        "select v.sku, s.received, s.available, s.band, j.kind, j.quantity "
        "from variants v join stock s using (variant_id) "
        "left join stock_journal j using (variant_id) where v.sku like 'TM-%' order by v.position"
    )
    assert [tuple(row) for row in rows] == [
        ("TM-LS-SAND-S", 12, 12, "in_stock", "receive", 12),
        ("TM-LS-SAND-M", 3, 3, "few_left", "receive", 3),
        ("TM-LS-INDI-M", 0, 0, "sold_out", None, None),
    ]
    assert await shop.value(JOURNAL_DIFFERS_FROM_STOCK) == 0


async def test_an_import_never_touches_stock_that_there_is(shop: Shop, tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    await shop.load(shopify_csv(path, [mug(**{"Variant Inventory Qty": "5"})]))
    summary, _ = await shop.load(shopify_csv(path, [mug(**{"Variant Inventory Qty": "500"})]))
    assert counts(summary) == (0, 0, 1, 0)
    changed = mug(Title="Large Mug", **{"Variant Inventory Qty": "700"})
    summary, _ = await shop.load(shopify_csv(path, [changed]))
    assert counts(summary) == (0, 1, 0, 0)
    assert await shop.column("select available from stock") == [5]
    assert await shop.column("select quantity from stock_journal") == [5]


async def test_a_changed_product_keeps_its_ids_and_tells_every_page_that_shows_it(
    shop: Shop, tmp_path: Path
) -> None:
    path = tmp_path / "f.csv"
    rows = [mug(Type="Mugs"), mug(Handle="cup", Title="Cup", Type="Mugs")]
    await shop.load(shopify_csv(path, rows))
    mug_id, cup_id = await shop.product_id("mug"), await shop.product_id("cup")
    await shop.connection.execute(
        "insert into related_products (product_id, position, related_product_id) "
        "values ($1, 1, $2)",
        cup_id,
        mug_id,
    )
    variant_ids = await shop.column("select variant_id from variants order by 1")
    await shop.tags()
    rows[0] |= {"Variant Price": "9.00", "Type": "Cups"}
    summary, _ = await shop.load(shopify_csv(path, rows))
    assert counts(summary) == (0, 1, 1, 0)
    assert await shop.tags() == sorted(
        ["category-cups", "category-mugs", "products", f"product-{mug_id}", f"product-{cup_id}"]
    )
    assert await shop.product_id("mug") == mug_id
    assert await shop.column("select variant_id from variants order by 1") == variant_ids
    price = await shop.value("select price_from_minor from products where slug = 'mug'")
    assert price == 900


async def test_a_variant_that_is_gone_is_retired_and_comes_back_as_itself(
    shop: Shop, tmp_path: Path
) -> None:
    path = tmp_path / "f.csv"
    small = mug(**{"Option1 Name": "Size", "Option1 Value": "S", "Variant Price": "5"})
    large = {"Handle": "mug", "Option1 Value": "L", "Variant Price": "8"}
    live = "select title from variants where retired_at is null order by position"
    await shop.load(shopify_csv(path, [small, large]))
    ids = await shop.column("select variant_id from variants order by 1")

    await shop.load(shopify_csv(path, [small | {"Option1 Value": "L", "Variant Price": "8"}]))
    assert await shop.column(live) == ["L"]
    assert await shop.value("select price_from_minor from products") == 800

    await shop.load(shopify_csv(path, [small, large]))
    assert await shop.column(live) == ["S", "L"]
    assert await shop.column("select variant_id from variants order by 1") == ids
    assert await shop.value("select price_from_minor from products") == 500
    assert await shop.value("select count(*) from stock") == 2


async def test_pictures_are_replaced_by_those_of_the_file(shop: Shop, tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    row = mug(**{"Image Src": "https://images.example.com/1.jpg"})
    more = {"Handle": "mug", "Image Src": "https://images.example.com/2.jpg"}
    await shop.load(shopify_csv(path, [row, more]))
    await shop.load(shopify_csv(path, [row | {"Image Src": "https://images.example.com/3.jpg"}]))
    assert await shop.column("select url from product_images") == [
        "https://images.example.com/3.jpg"
    ]


async def test_a_title_that_changes_does_not_move_the_address(shop: Shop, tmp_path: Path) -> None:
    path = tmp_path / "f.tsv"
    await shop.load(google_tsv(path, [cup()]))
    summary, _ = await shop.load(google_tsv(path, [cup(title="Tea Cup")]))
    assert counts(summary) == (0, 1, 0, 0)
    assert await shop.column("select slug || ' ' || title from products") == ["cup-cup Tea Cup"]


async def test_an_address_of_another_product_is_a_bad_row(shop: Shop, tmp_path: Path) -> None:
    await shop.load(google_tsv(tmp_path / "f.tsv", [cup()]))
    rows = [
        mug(Handle="cup-cup"),
        mug(Handle="Bowl"),
        mug(Handle="bowl"),
        mug(Handle="plate"),
    ]
    path = shopify_csv(tmp_path / "f.csv", rows)
    summary, bad = await shop.load(path)
    assert counts(summary) == (2, 0, 0, 2)
    assert [(finding.file, finding.line, finding.field) for finding in bad] == [
        (str(path), 2, "slug"),
        (str(path), 4, "slug"),
    ]
    assert "address of another product already (google 'cup')" in bad[0].reason
    assert "(shopify 'Bowl')" in bad[1].reason
    with pytest.raises(StrictStop):
        await shop.load(path, strict=True)


async def test_strict_stops_at_the_first_bad_row_with_nothing_changed(
    shop: Shop, tmp_path: Path
) -> None:
    await shop.load(shopify_csv(tmp_path / "first.csv", [mug()]))
    before = await shop.value(CONTENT)
    await shop.tags()
    good = CHUNK_PRODUCTS + 100  # the bad row is not in the first chunk
    rows = [mug(Handle=f"mug-{number}") for number in range(good)]
    rows += [mug(Title="Changed Mug"), mug(Handle="bad", **{"Variant Price": "x"})]
    with pytest.raises(StrictStop):
        await shop.load(shopify_csv(tmp_path / "second.csv", rows), strict=True)
    assert await shop.value(CONTENT) == before
    assert await shop.tags() == []
    summary, _ = await shop.load(tmp_path / "second.csv")
    assert counts(summary) == (good, 1, 0, 1)


async def test_a_first_load_tells_lists_once_and_not_each_page(shop: Shop) -> None:
    await shop.generate(1000)
    tags = await shop.tags()
    assert "products" in tags
    assert len(tags) == 1 + await shop.value("select count(*) from categories")


@pytest.mark.faults
async def test_the_same_seed_gives_the_same_database(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it is loaded in bulk, with indexes built at the end, or into the indexes."""
    monkeypatch.setattr(catalog_load, "BULK_PRODUCTS", 1000)
    await loads_alike(shop, first=CHUNK_PRODUCTS - 500, all_of_them=CHUNK_PRODUCTS + 200)


@pytest.mark.faults
async def test_the_same_seed_gives_the_same_database_in_many_chunks(shop: Shop) -> None:
    await loads_alike(shop, first=1000, all_of_them=BULK_PRODUCTS + 1000)


async def loads_alike(shop: Shop, *, first: int, all_of_them: int) -> None:
    """All in bulk, and then `first` of them and the others after those: into the indexes."""
    shape = await shop.column(SHAPE)
    await shop.generate(all_of_them)
    content = await shop.value(CONTENT)
    assert await shop.column(SHAPE) == shape
    assert await shop.value(JOURNAL_DIFFERS_FROM_STOCK) == 0

    await shop.connection.execute("truncate products, categories, outbox cascade")
    assert counts(await shop.generate(first)) == (first, 0, 0, 0)
    assert counts(await shop.generate(all_of_them)) == (all_of_them - first, 0, first, 0)
    assert await shop.value(CONTENT) == content


@pytest.mark.faults
async def test_a_load_that_is_killed_leaves_no_trace(shop: Shop) -> None:
    shape = await shop.column(SHAPE)
    products, told_after = 2 * BULK_PRODUCTS, CHUNK_PRODUCTS
    arguments = ("catalog", "generate", "--products", str(products))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "infra.cli", *arguments, "--data-dir", str(shop.stack.data_dir)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == f"catalog {told_after}/{products}\n".encode()
    finally:
        process.kill()
        await process.communicate()
    assert await shop.value("select count(*) from products") == 0  # waits for the rollback
    assert await shop.column(SHAPE) == shape


async def test_two_loads_do_not_run_at_once(shop: Shop) -> None:
    await shop.value("select pg_advisory_lock($1)", LOAD_LOCK)
    with pytest.raises(LoadFailed, match="another import is running"):
        await shop.load(SAMPLES / "shopify.csv")
    await shop.value("select pg_advisory_unlock($1)", LOAD_LOCK)
    summary, _ = await shop.load(SAMPLES / "shopify.csv")
    assert summary.new == 6


async def test_a_shop_that_sells_is_read_during_a_bulk_load(shop: Shop) -> None:
    await shop.generate(10)
    await shop.connection.execute("set lock_timeout = '500ms'")
    async with connected(*shop.owner) as owner, loading(owner, products=BULK_PRODUCTS):
        assert await shop.value("select count(*) from products") == 10


async def test_nobody_reads_an_empty_catalog_while_its_indexes_are_gone(shop: Shop) -> None:
    await shop.connection.execute("set lock_timeout = '500ms'")
    async with connected(*shop.owner) as owner, loading(owner, products=BULK_PRODUCTS):
        with pytest.raises(asyncpg.LockNotAvailableError):
            await shop.value("select count(*) from products")


async def test_tables_that_are_missing_are_named_as_the_reason(shop: Shop) -> None:
    dsn, password = shop.owner
    with pytest.raises(LoadFailed, match="has no tables: tercet migrate"):
        await generate_products(
            (f"{dsn}?search_path=nowhere", password),
            products=1,
            seed=1,
            currency="USD",
            on_progress=no_progress,
            on_bad=lambda _: None,
        )


def test_the_command_reports_bad_rows_and_goes_on(servers: RunningStack, tmp_path: Path) -> None:
    rows = [mug(Handle="fine"), mug(Handle="bad", **{"Variant Price": "abc"})]
    path = shopify_csv(tmp_path / "goods.csv", rows)
    done = tercet(servers, "catalog", "import", str(path), "--currency", "eur")
    assert done.returncode == 1
    assert f"bad row: {path}:3: Variant Price: 'abc' is not an amount" in done.stderr
    assert "catalog import: 1 new, 0 changed, 0 unchanged, 1 skipped" in done.stdout
    done = tercet(servers, "catalog", "import", str(path), "--strict", "--currency", "eur")
    assert done.returncode == 3
    assert done.stderr.endswith("stopped at the first bad row: nothing changed\n")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nothing.csv"], 2, "nothing.csv: does not exist"),
        ([str(SAMPLES)], 2, "is not a file"),
        ([str(SAMPLES / "shopify.csv"), "--currency", "ABC"], 2, "'ABC' is not an ISO 4217"),
        ([str(SAMPLES / "shopify.csv"), "--format", "xls"], 2, "is not auto, shopify"),
        ([str(SAMPLES / "shopify.csv"), "--format", "google-tsv"], 2, "lacks the columns id"),
    ],
)
def test_what_can_not_be_imported_is_said_in_one_line(
    servers: RunningStack, arguments: list[str], code: int, message: str
) -> None:
    done = tercet(servers, "catalog", "import", *arguments)
    assert done.returncode == code
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.faults
def test_a_pipe_gets_plain_lines_and_a_terminal_a_bar(servers: RunningStack) -> None:
    arguments = ("catalog", "generate", "--products", "1100", "--seed", "7")
    done = tercet(servers, *arguments)
    assert done.returncode == 0
    assert done.stdout.splitlines()[:2] == [f"catalog {n}/1100" for n in (1000, 1100)]

    terminal, its_end = pty.openpty()
    command = [sys.executable, "-m", "infra.cli", *arguments]
    process = subprocess.Popen(
        [*command, "--data-dir", str(servers.data_dir)], stdout=its_end, stderr=its_end
    )
    os.close(its_end)
    shown = b""
    while True:
        try:
            shown += os.read(terminal, 65536)
        except OSError:  # the other end is closed: the process has ended
            break
    os.close(terminal)
    assert process.wait() == 0
    assert "━".encode() in shown
    assert b"0 new, 0 changed, 1100 unchanged" in shown
    assert b"catalog 1000/1100" not in shown


async def test_goods_that_come_in_are_a_journal_entry(shop: Shop, primary: Primary) -> None:
    await shop.load(SAMPLES / "shopify.csv")
    await shop.tags()
    entry = await enter_stock(primary, "TM-LS-SAND-M", 2, kind="receive", reason="box 7")
    assert (entry.moved.received, entry.moved.available, entry.moved.band) == (5, 5, "few_left")
    assert await shop.tags() == []  # the same band: no page is old

    entry = await enter_stock(primary, "TM-LS-SAND-M", 1, kind="receive", reason="box 8")
    assert (entry.moved.available, entry.moved.band) == (6, "in_stock")
    shirt_id = await shop.product_id("tidemark-linen-shirt")
    assert await shop.tags() == [f"product-{shirt_id}"]
    reasons = await shop.column("select reason from stock_journal order by stock_journal_id")
    assert reasons[-2:] == ["box 7", "box 8"]
    assert await shop.value(JOURNAL_DIFFERS_FROM_STOCK) == 0


async def test_a_correction_never_takes_more_than_is_available(
    shop: Shop, primary: Primary
) -> None:
    await shop.load(SAMPLES / "shopify.csv")
    await shop.tags()
    variant_id = await shop.value("select variant_id from variants where sku = 'LQ-MUG'")
    await enter_stock(primary, str(variant_id), -38, kind="adjust", reason="broken")
    with pytest.raises(StockRefused, match="fewer than 3 are available"):
        await enter_stock(primary, "LQ-MUG", -3, kind="adjust", reason="broken too")
    assert await shop.value("select available from stock where variant_id = $1", variant_id) == 2
    entry = await enter_stock(primary, "LQ-MUG", -2, kind="adjust", reason="the last two")
    assert entry.moved.band == "sold_out"
    assert len(await shop.tags()) == 2
    assert await shop.value(JOURNAL_DIFFERS_FROM_STOCK) == 0


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (("nobody", 1, "receive", "r"), "no variant has the id or SKU 'nobody'"),
        ((str(UUID(int=1)), 1, "receive", "r"), "no variant has the id"),
        (("", 1, "receive", "r"), "no variant has the id or SKU ''"),
        (("LQ-MUG", 0, "receive", "r"), "0 is not a quantity"),
        (("LQ-MUG", -1, "receive", "r"), "-1 is not a quantity to receive"),
        (("LQ-MUG", 0, "adjust", "r"), "0 is not a quantity to adjust"),
        (("LQ-MUG", 10**18, "receive", "r"), "is not a quantity"),
        (("LQ-MUG", 1, "adjust", " "), "the reason has to have"),
    ],
)
async def test_an_entry_that_makes_no_sense_is_refused(
    shop: Shop, primary: Primary, entry: tuple[str, int, Kind, str], message: str
) -> None:
    await shop.load(SAMPLES / "shopify.csv")
    journal = await shop.value("select count(*) from stock_journal")
    named, quantity, kind, reason = entry
    with pytest.raises(StockRefused, match=message):
        await enter_stock(primary, named, quantity, kind=kind, reason=reason)
    assert await shop.value("select count(*) from stock_journal") == journal


async def test_a_sku_of_several_variants_has_to_be_told_by_id(
    shop: Shop, primary: Primary, tmp_path: Path
) -> None:
    rows = [mug(**{"Variant SKU": "X"}), mug(Handle="cup", Title="Cup", **{"Variant SKU": "X"})]
    await shop.load(shopify_csv(tmp_path / "f.csv", rows))
    with pytest.raises(StockRefused, match="several variants have the SKU 'X'"):
        await enter_stock(primary, "X", 1, kind="receive", reason="r")


async def test_stock_is_kept_from_the_command_line(shop: Shop) -> None:
    await shop.load(SAMPLES / "shopify.csv")
    done = tercet(shop.stack, "stock", "receive", "LQ-MUG", "10")
    assert done.returncode == 0
    assert ": +10, now 50 available, in_stock" in done.stdout
    done = tercet(shop.stack, "stock", "adjust", "LQ-MUG", "-48", "--reason", "counted")
    assert done.returncode == 0
    assert ": -48, now 2 available, few_left" in done.stdout
    done = tercet(shop.stack, "stock", "adjust", "LQ-MUG", "-3", "--reason", "counted")
    assert done.returncode == 1
    assert "fewer than 3 are available" in done.stderr
    assert await shop.value(JOURNAL_DIFFERS_FROM_STOCK) == 0
