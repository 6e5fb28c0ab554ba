"""Loading products into the catalog: a thread reads ahead while what was read is written."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

from services.business.imports import files, generate
from services.business.imports.files import CatalogFile, OnProgress
from services.business.imports.rows import Finding, Outcome, Read
from services.data import catalog_load
from services.data.catalog_rows import Product

CHUNK_PRODUCTS: Final = 1000  # some 3 MB of rows: large enough for sets, small enough to wait for

# A row of a product file is seldom shorter; only tells small loads from bulk ones.
ROW_BYTES: Final = 300

OnFinding = Callable[[Finding], None]


class StrictStop(Exception):
    """A bad row with --strict: nothing was changed."""


class StopReading(Exception):
    """Ends the reading of a file in its thread; seen by nobody."""


@dataclass(slots=True)
class Summary:
    """What became of the products of a load."""

    new: int = 0
    changed: int = 0
    unchanged: int = 0
    skipped: int = 0
    seconds: float = 0.0
    categories: set[str] = field(default_factory=set)

    def __str__(self) -> str:
        return (
            f"{self.new} new, {self.changed} changed, {self.unchanged} unchanged, "
            f"{self.skipped} skipped in {self.seconds:.1f} s"
        )


@dataclass(slots=True)
class Chunk:
    """Products to write at once, and what there is to say about the rows they came from."""

    file: str = ""
    products: list[Product] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)
    bad: list[Finding] = field(default_factory=list)
    skipped: int = 0


async def import_files(
    owner: tuple[str, str],
    catalogs: Sequence[CatalogFile],
    *,
    currency: str,
    strict: bool,
    on_progress: OnProgress,
    on_bad: OnFinding,
    on_note: OnFinding,
) -> Summary:
    """Import files as one transaction; `owner` is the DSN and password of tercet_owner.

    A product with a bad row is skipped as a whole: without that row it would lose a variant. With
    `strict` the first such product raises StrictStop and nothing is changed. Also raises
    FileProblem, and what catalog_load raises.
    """

    stopped = threading.Event()

    def on_read(what: str, done: int, total: int) -> None:
        if stopped.is_set():
            raise StopReading
        on_progress(what, done, total)

    def chunks() -> Iterator[Chunk]:
        for catalog in catalogs:
            outcomes = files.read(catalog, currency, on_read)
            yield from _chunks(str(catalog.path), outcomes, strict=strict)

    async def write(connection: catalog_load.Connection, summary: Summary) -> None:
        async with aclosing(_ahead(chunks(), stopped)) as made:
            async for chunk in made:
                loaded = await catalog_load.load_chunk(connection, chunk.products, "import")
                chunk.bad.extend(_clash(chunk, clash) for clash in loaded.clashes)
                for note in chunk.notes:
                    on_note(note)
                for finding in chunk.bad:
                    on_bad(finding)
                _add(summary, loaded, chunk.skipped)
                if strict and chunk.bad:
                    raise StrictStop

    size_bytes = sum(catalog.size_bytes for catalog in catalogs)
    return await _load(owner, size_bytes // ROW_BYTES, write)


async def generate_products(
    owner: tuple[str, str],
    *,
    products: int,
    seed: int,
    currency: str,
    on_progress: OnProgress,
    on_bad: OnFinding,
) -> Summary:
    """Write the generated catalog of that size and seed as one transaction."""

    async def write(connection: catalog_load.Connection, summary: Summary) -> None:
        done = 0
        blocks = _generated(products, seed, currency)
        async with aclosing(_ahead(blocks, threading.Event())) as made:
            async for chunk in made:
                loaded = await catalog_load.load_chunk(connection, chunk.products, "generated")
                for clash in loaded.clashes:
                    on_bad(_clash(chunk, clash))
                _add(summary, loaded, 0)
                done += len(chunk.products)
                on_progress("catalog", done, products)

    return await _load(owner, products, write)


async def _load(
    owner: tuple[str, str],
    products: int,
    write: Callable[[catalog_load.Connection, Summary], Awaitable[None]],
) -> Summary:
    started = time.monotonic()
    summary = Summary()
    async with (
        catalog_load.connected(*owner) as connection,
        catalog_load.loading(connection, products=products),
    ):
        await write(connection, summary)
        if summary.new or summary.changed:
            await catalog_load.tag_lists(connection, summary.categories)
    summary.seconds = time.monotonic() - started
    return summary


def _add(summary: Summary, loaded: catalog_load.Loaded, skipped: int) -> None:
    summary.new += loaded.new
    summary.changed += loaded.changed
    summary.unchanged += loaded.unchanged
    summary.skipped += skipped + len(loaded.clashes)
    summary.categories |= loaded.categories


def _clash(chunk: Chunk, clash: catalog_load.Clash) -> Finding:
    product = chunk.products[clash.row_no]
    owner = f"{clash.owner_source} {clash.owner_source_id!r}"
    reason = f"{product.slug!r} is the address of another product already ({owner})"
    return Finding(chunk.file, product.line, "slug", reason)


def _chunks(file: str, outcomes: Iterator[Outcome], *, strict: bool) -> Iterator[Chunk]:
    chunk = Chunk(file)
    for outcome in outcomes:
        if isinstance(outcome, Read):
            chunk.products.append(outcome.product)
            chunk.notes.extend(outcome.notes)
        else:
            chunk.bad.extend(outcome.findings)
            chunk.skipped += 1
        full = len(chunk.products) + chunk.skipped >= CHUNK_PRODUCTS
        if full or (strict and chunk.bad):
            yield chunk
            chunk = Chunk(file)
    if chunk.products or chunk.skipped:
        yield chunk


def _generated(products: int, seed: int, currency: str) -> Iterator[Chunk]:
    chunk = Chunk("generated")
    for block in generate.catalog(products, seed, currency):
        chunk.products.extend(block)
        if len(chunk.products) >= CHUNK_PRODUCTS:
            yield chunk
            chunk = Chunk("generated")
    if chunk.products:
        yield chunk


async def _ahead(chunks: Iterator[Chunk], stopped: threading.Event) -> AsyncGenerator[Chunk, None]:
    """The chunks, the next one being made in a thread while the last one is written.

    `stopped` is set when no more are wanted; a thread can not be stopped from outside.
    """
    coming = asyncio.create_task(asyncio.to_thread(next, chunks, None))
    try:
        while (chunk := await coming) is not None:
            coming = asyncio.create_task(asyncio.to_thread(next, chunks, None))
            yield chunk
    finally:
        stopped.set()
        await asyncio.gather(coming, return_exceptions=True)
