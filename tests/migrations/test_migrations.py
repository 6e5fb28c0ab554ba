"""The migrations on a database that is full: up, down to nothing, up again, and what they grant."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio

from services.business.payments import pay
from services.business.shop import open_shop
from tests.laboratory import OwnDatabase, own_database
from tests.running_stack import RunningStack
from tests.shopping import Books, open_books, place

TABLES = (
    "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r'"
)
# Everything of ours in the database, of whatever kind.
LEFT = """
    select c.relname from pg_class c where c.relnamespace = 'public'::regnamespace
        and not exists (select from pg_depend d where d.objid = c.oid and d.deptype = 'e')
    union all select t.typname from pg_type t where t.typnamespace = 'public'::regnamespace
        and t.typtype in ('c', 'e', 'd')
        and not exists (select from pg_depend d where d.objid = t.typrelid and d.deptype = 'e')
    union all select p.proname from pg_proc p where p.pronamespace = 'public'::regnamespace
        and not exists (select from pg_depend d where d.objid = p.oid and d.deptype = 'e')
"""


@pytest_asyncio.fixture(scope="module")
async def database(stack: RunningStack) -> AsyncIterator[OwnDatabase]:
    """Migrated, with goods, a paid order and an unpaid one."""
    async with own_database(stack) as made:
        await made.upgrade()
        async with open_books(made.superuser_dsn()) as books, open_shop(made.settings()) as shop:
            goods = await books.goods(category=None)
            key = await place(shop, {goods.variant: 2})
            await pay(shop, key, "tok_approve", "a-key", b"body")
            await place(shop, {goods.variant: 1}, key.customer_id)
        yield made


@pytest_asyncio.fixture(scope="module")
async def books(database: OwnDatabase) -> AsyncIterator[Books]:
    async with open_books(database.superuser_dsn()) as opened:
        yield opened


async def refused(books: Books, role: str, statement: str) -> bool:
    """Whether the role may not do it; nothing of it stays."""
    transaction = books.connection.transaction()
    await transaction.start()
    try:
        await books.rows(f"set local role {role}")
        await books.connection.execute(statement)
    except asyncpg.InsufficientPrivilegeError:
        return True
    finally:
        await transaction.rollback()
    return False


def delete_nothing(table: str) -> str:
    return f"delete from {table} where false"  # noqa: S608 - a name from pg_class


async def test_every_constraint_and_index_is_named_by_us_after_its_table(books: Books) -> None:
    rows = await books.rows("""
        select conrelid::regclass::text as table, conname as name, contype::text as kind
        from pg_constraint where connamespace = 'public'::regnamespace and conrelid <> 0
        union all
        select indrelid::regclass::text, indexrelid::regclass::text, 'i' from pg_index
        join pg_class c on c.oid = indrelid where c.relnamespace = 'public'::regnamespace
    """)
    ours = [row for row in rows if row["table"] != "alembic_version" and row["kind"] != "n"]
    assert len(ours) > 60
    for row in ours:
        assert row["name"].startswith(row["table"].rstrip("s")), row
        # What PostgreSQL makes up ends like this.
        assert not re.search(r"_(check|excl|key|fkey|idx)\d+$|_check$", row["name"]), row
        assert len(row["name"]) < 63


async def test_not_null_is_the_only_constraint_without_a_name_of_ours(books: Books) -> None:
    kinds = await books.rows("""
        select distinct contype::text as kind from pg_constraint
        where connamespace = 'public'::regnamespace and conrelid <> 0
    """)
    assert {row["kind"] for row in kinds} <= {"p", "u", "f", "c", "n"}


async def test_every_foreign_key_can_be_followed_backwards_by_an_index(books: Books) -> None:
    """Where rows of the other table are ever deleted; else a delete reads the whole table."""
    missing = await books.rows("""
        select conname from pg_constraint f
        where contype = 'f' and confdeltype = 'c' and not exists (
            select from pg_index i where i.indrelid = f.conrelid
                and (i.indkey::int2[])[0:cardinality(f.conkey) - 1] @> f.conkey
        )
    """)
    assert [row["conname"] for row in missing] == []


APPEND_ONLY = (
    "ledger_transfers",
    "stock_journal",
    "order_events",
    "ledger_accounts",
    "alembic_version",
)
# What is no longer sold is retired or unpublished, and what was done with money stays: books and
# orders name it.
NEVER_DELETED = (
    "products",
    "variants",
    "stock",
    "flash_sales",
    "flash_sale_claims",
    "payment_operations",
    "payment_reviews",
    "orphan_charges",
    "provider_walks",
)
DENIED_TO_APP = (
    "create table mine (n int)",
    "alter table products add column more text",
    "drop table outbox",
    "truncate outbox",
    "create index mine on products (vendor)",
    "create function mine() returns int language sql as 'select 1'",
    "create schema mine",
    "update ledger_transfers set amount_minor = 1",
    "delete from ledger_transfers",
    "update stock_journal set quantity = 1",
    "delete from stock_journal",
    "delete from products",
    "delete from variants",
    "delete from stock",
    "insert into ledger_accounts values ('mine', '')",
    "update ledger_accounts set description = ''",
    "update alembic_version set version_num = '0'",
    "create extension hstore",
    "copy products to program 'true'",
)


@pytest.mark.parametrize("statement", DENIED_TO_APP)
async def test_the_application_may_not(statement: str, books: Books) -> None:
    assert await refused(books, "tercet_app", statement)


async def test_the_application_may_read_and_write_what_it_works_with(books: Books) -> None:
    for (table,) in await books.rows(TABLES):
        assert not await refused(books, "tercet_app", f"select from {table}"), table
        if table not in (*APPEND_ONLY, *NEVER_DELETED):
            assert not await refused(books, "tercet_app", delete_nothing(table)), table


@pytest.mark.parametrize("table", ["products", "variants"])
async def test_the_journal_does_not_go_with_what_it_is_about(table: str, books: Books) -> None:
    """Whoever may delete goods, may not delete what the books say about them with it."""
    goods = await books.goods()
    with pytest.raises(asyncpg.ForeignKeyViolationError) as refused:
        await books.rows(f"delete from {table} where product_id = $1", goods.product_id)  # noqa: S608 - one of two names
    assert refused.value.constraint_name == "stock_journal_variant_fkey"


async def test_the_reader_reads_all_but_credentials_and_writes_nothing(books: Books) -> None:
    closed = {
        "accounts", "account_networks", "account_tokens", "customer_tokens", "idempotency_keys",
        "login_tries", "mails", "sessions",
    }  # fmt: skip
    for (table,) in await books.rows(TABLES):
        assert await refused(books, "tercet_read", f"select from {table}") == (table in closed)
        assert await refused(books, "tercet_read", delete_nothing(table)), table
    assert await refused(books, "tercet_read", "insert into customers (kind) values ('guest')")
    assert await refused(books, "tercet_read", "update products set title = ''")
    assert await refused(books, "tercet_read", "create table mine (n int)")
    assert await refused(books, "tercet_read", "select nextval('outbox_outbox_id_seq')")


async def test_a_full_database_goes_down_to_nothing_and_up_again(stack: RunningStack) -> None:
    async with own_database(stack) as database:
        await database.upgrade()
        async with open_books(database.superuser_dsn()) as books:
            before = await schema(books)
            async with open_shop(database.settings()) as shop:
                goods = await books.goods()
                key = await place(shop, {goods.variant: 2})
                await pay(shop, key, "tok_approve", "a-key", b"body")
                await place(shop, {goods.variant: 1})
        await database.downgrade("base")
        async with open_books(database.superuser_dsn()) as books:
            left = {row["relname"] for row in await books.rows(LEFT)}
            # Alembic's own note, which says: nothing.
            assert left <= {"alembic_version", "alembic_version_pkc"}
            assert await books.value("select count(*) from alembic_version") == 0
        await database.upgrade()
        async with open_books(database.superuser_dsn(), relayed=False) as books:
            assert await schema(books) == before
            goods = await books.goods()
            async with open_shop(database.settings()) as shop:
                key = await place(shop, {goods.variant: 2})
                paid = await pay(shop, key, "tok_approve", "a-key", b"body")
            assert paid.payment.state == "SUCCESS"
            assert await books.broken_rules() == []


async def schema(books: Books) -> set[tuple[str, ...]]:
    """Columns, constraints, indexes, comments and rights, as text."""
    rows = await books.rows("""
        select table_name, column_name, data_type || is_nullable || coalesce(column_default, '')
        from information_schema.columns where table_schema = 'public'
        union all
        select conrelid::regclass::text, conname, pg_get_constraintdef(oid) from pg_constraint
        where connamespace = 'public'::regnamespace
        union all
        select tablename, indexname, indexdef from pg_indexes where schemaname = 'public'
        union all
        select relname, 'rights', relacl::text from pg_class
        where relnamespace = 'public'::regnamespace and relkind = 'r'
        union all
        select objoid::regclass::text, objsubid::text, description from pg_description
        where classoid = 'pg_class'::regclass and objoid >= 16384
    """)
    return {tuple(str(value) for value in row.values()) for row in rows}
