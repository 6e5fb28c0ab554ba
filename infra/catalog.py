"""`tercet catalog` and `tercet stock`: goods and quantities, from the command line."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from infra.unanswered import UNANSWERED, why_unanswered
from services import money
from services.business.imports import loading
from services.business.imports.files import CatalogFile, Format, OnProgress, catalog_file
from services.business.imports.generate import PRODUCTS_MAX
from services.business.imports.rows import FileProblem, Finding
from services.data.catalog_load import LoadFailed
from services.problems import OutcomeUnknown
from services.settings import (
    CatalogSettings,
    DatabaseSettings,
    MigrateSettings,
    SettingsError,
    load,
)

if TYPE_CHECKING:
    from services.business.stock_keeping import Entry
    from services.data.stock_journal import Kind

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Import products from files, or generate them.",
)
stock_app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Receive goods, or correct what was counted, as entries of the stock journal.",
)

# Exit codes, beside 0. The last two are EX_UNAVAILABLE and EX_CONFIG of sysexits.h.
SOME_SKIPPED: Final = 1
REFUSED: Final = 1
USAGE: Final = 2
STRICT_STOP: Final = 3
UNAVAILABLE: Final = 69
NOT_CONFIGURED: Final = 78

DataDir = Annotated[
    Path | None,
    typer.Option(
        readable=False,
        help="Folder of a local stack; without it the TERCET_… variables name the database if "
        "TERCET_PRIMARY_DSN is set, else the stack in .tercet does.",
    ),
]


@app.command("import")
def import_command(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Product files.")],
    currency: Annotated[
        str | None, typer.Option(help="ISO 4217 code of prices in Shopify files.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first bad row, with nothing changed.")
    ] = False,
    file_format: Annotated[
        str, typer.Option("--format", help="auto, shopify, google-tsv or google-xml.")
    ] = "auto",
    data_dir: DataDir = None,
) -> None:
    """Import Shopify product CSV files and Google product feeds (TSV, XML).

    Exit code 0: all is in; 1: bad rows were skipped, the rest is in; 2: a file or option can not
    be used, nothing changed; 3: stopped by --strict, nothing changed.
    """
    with _explained():
        _use(data_dir)
        chosen = None if file_format == "auto" else _format(file_format)
        catalogs = [catalog_file(path, chosen) for path in files]
        summary = _import(catalogs, _currency(currency), strict=strict)
    typer.echo(f"catalog import: {summary}")
    if summary.skipped:
        raise typer.Exit(SOME_SKIPPED)


@app.command("generate")
def generate_command(
    products: Annotated[int, typer.Option(min=1, max=PRODUCTS_MAX, help="How many.")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Same seed, same catalog.")] = 1,
    data_dir: DataDir = None,
) -> None:
    """Generate a believable catalog, the same one for the same seed."""
    with _explained():
        _use(data_dir)
        owner, currency = _owner(), _currency(None)
        with _progress() as on_progress:
            summary = asyncio.run(
                loading.generate_products(
                    owner,
                    products=products,
                    seed=seed,
                    currency=currency,
                    on_progress=on_progress,
                    on_bad=_report,
                )
            )
    typer.echo(f"catalog generate: {summary}")
    if summary.skipped:
        raise typer.Exit(SOME_SKIPPED)


# A negative quantity looks like an option; what is none goes to the arguments.
@stock_app.command("receive", context_settings={"ignore_unknown_options": True})
def receive_command(
    variant: Annotated[str, typer.Argument(metavar="SKU|VARIANT_ID", help="What came in.")],
    quantity: Annotated[int, typer.Argument(metavar="QTY", help="How many, above zero.")],
    reason: Annotated[str, typer.Option(help="What the journal says about it.")] = "received",
    data_dir: DataDir = None,
) -> None:
    """Goods came in: they are there to sell at once."""
    _enter(variant, quantity, "receive", reason, data_dir)


@stock_app.command("adjust", context_settings={"ignore_unknown_options": True})
def adjust_command(
    variant: Annotated[str, typer.Argument(metavar="SKU|VARIANT_ID", help="What was counted.")],
    quantity: Annotated[int, typer.Argument(metavar="±QTY", help="How many more or fewer.")],
    reason: Annotated[str, typer.Option(help="What the journal says about it.")],
    data_dir: DataDir = None,
) -> None:
    """A count was wrong: more or fewer are there to sell, never fewer than none."""
    _enter(variant, quantity, "adjust", reason, data_dir)


def _enter(variant: str, quantity: int, kind: Kind, reason: str, data_dir: Path | None) -> None:
    # Half a second of imports that a catalog does not need.
    from services.business.stock_keeping import StockRefused

    with _explained():
        _use(data_dir)
        try:
            entry = asyncio.run(_enter_stock(variant, quantity, kind, reason))
        except StockRefused as error:
            raise _failed(str(error), REFUSED) from None
    title = " ".join(part for part in (entry.variant.product_title, entry.variant.title) if part)
    typer.echo(
        f"{title} ({entry.variant.variant_id}): {quantity:+d}, now {entry.moved.available} "
        f"available, {entry.moved.band}"
    )


async def _enter_stock(variant: str, quantity: int, kind: Kind, reason: str) -> Entry:
    from services.business.stock_keeping import enter_stock
    from services.data.pool import Pool
    from services.data.sources import Primary
    from services.telemetry import configure_logging

    settings = load(DatabaseSettings)
    configure_logging("stock", settings.model_copy(update={"log_level": "ERROR"}))
    pool = Pool(
        "primary",
        settings.primary_dsn,
        password=settings.app_password.get_secret_value(),
        size=1,
        statement_timeout_ms=settings.statement_timeout_ms,
    )
    try:
        return await enter_stock(Primary(pool), variant, quantity, kind=kind, reason=reason)
    finally:
        await pool.close()


def _import(catalogs: list[CatalogFile], currency: str, *, strict: bool) -> loading.Summary:
    with _progress() as on_progress:
        return asyncio.run(
            loading.import_files(
                _owner(),
                catalogs,
                currency=currency,
                strict=strict,
                on_progress=_AllFiles(catalogs, on_progress),
                on_bad=_report,
                on_note=_note,
            )
        )


@contextmanager
def _explained() -> Iterator[None]:
    """What can go wrong outside of us, as a line on stderr and an exit code."""
    try:
        yield
    except (FileProblem, money.UnknownCurrency) as error:
        raise _failed(str(error), USAGE) from None
    except loading.StrictStop:
        raise _failed("stopped at the first bad row: nothing changed", STRICT_STOP) from None
    except LoadFailed as error:
        raise _failed(str(error), UNAVAILABLE) from None
    except OutcomeUnknown:
        raise _failed(
            "the answer was lost: look at the stock before trying again", UNAVAILABLE
        ) from None
    except SettingsError as error:
        raise _failed(str(error), NOT_CONFIGURED) from None
    except UNANSWERED as error:
        raise _failed(why_unanswered(error), UNAVAILABLE) from None


def _failed(message: str, code: int) -> typer.Exit:
    typer.echo(message, err=True)
    return typer.Exit(code)


def _report(finding: Finding) -> None:
    typer.echo(f"bad row: {finding}", err=True)


def _note(finding: Finding) -> None:
    typer.echo(f"note: {finding}", err=True)


def _use(data_dir: Path | None) -> None:
    """Take the settings of the local stack in that folder."""
    if data_dir is not None:
        from infra.local.stack import environment_of

        os.environ.update(environment_of(data_dir))


def _owner() -> tuple[str, str]:
    settings = load(MigrateSettings)
    return settings.owner_dsn, settings.owner_password.get_secret_value()


def _currency(chosen: str | None) -> str:
    currency = load(CatalogSettings).currency if chosen is None else chosen.upper()
    money.exponent(currency)
    return currency


def _format(name: str) -> Format:
    try:
        return Format(name)
    except ValueError:
        raise FileProblem(f"--format {name}: is not auto, {', '.join(Format)}") from None


@contextmanager
def _progress() -> Iterator[OnProgress]:
    """A bar on a terminal; in a pipe a plain line for each tenth that is done."""
    if not sys.stdout.isatty():
        yield _PlainProgress()
        return
    percent = TextColumn("{task.percentage:>3.0f} %")
    columns = (TextColumn("{task.description}"), BarColumn(), percent, TimeRemainingColumn())
    with Progress(*columns, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def on_progress(what: str, done: int, total: int) -> None:
            task = tasks.setdefault(what, TaskID(-1))
            if task == -1:
                task = tasks[what] = bars.add_task(what, total=total)
            bars.update(task, completed=done, total=total)

        yield on_progress


class _AllFiles:
    """Progress of all files together, in kB; how far the rows of one are says nothing of it."""

    def __init__(self, catalogs: list[CatalogFile], on_progress: OnProgress) -> None:
        self._on_progress = on_progress
        self._total = sum(catalog.size_bytes for catalog in catalogs)
        self._files_before_bytes = 0
        self._file_bytes = self._file_total = 0
        self._last = ""

    def __call__(self, what: str, done: int, total: int) -> None:
        if not what.startswith("reading "):
            return
        if what != self._last or done < self._file_bytes:  # the next file
            self._files_before_bytes += self._file_total
        self._last, self._file_bytes, self._file_total = what, done, total
        read_bytes = min(self._total, self._files_before_bytes + done)
        self._on_progress("kB read", read_bytes // 1000, max(1, self._total // 1000))


class _PlainProgress:
    """Lines like "catalog 2500/10000", when another tenth of it is done."""

    def __init__(self) -> None:
        self._tenths: dict[str, int] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        tenths = 10 * done // max(total, 1)
        if tenths > self._tenths.get(what, 0):
            self._tenths[what] = tenths
            typer.echo(f"{what} {done}/{total}")
            sys.stdout.flush()
