"""`tercet reconcile --report`: the provider's own books beside ours, line by line."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from infra.local.folder import DEFAULT_DATA_DIR, ClosedFolderError, NotRunningError
from infra.unanswered import UNANSWERED, why_unanswered
from services.business.matching import Difference
from services.business.provider_books import EPOCH, BooksUnanswered, Comparison, compare_books
from services.business.providers.sandbox_adapter import open_sandbox
from services.business.reconcile import ARRIVAL_GRACE
from services.data.store import open_primary
from services.settings import BusinessSettings, SettingsError, load
from services.telemetry import configure_logging

STATEMENT_TIMEOUT_MS = 60_000  # each statement reads a page


def reconcile(
    report: Annotated[
        bool, typer.Option("--report", help="Compare and print; nothing is changed.")
    ] = False,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            "--data-dir",
            readable=False,
            help="Folder of the local stack; without it the TERCET_… variables name database and "
            "provider if TERCET_PRIMARY_DSN is set, else the stack in .tercet does.",
        ),
    ] = None,
    since: Annotated[
        datetime | None,
        typer.Option(help="Only what was made since then, in UTC, as 2026-01-31T12:00:00."),
    ] = None,
    grace_s: Annotated[
        float, typer.Option(min=0, help="What has changed in so many seconds is in flight.")
    ] = ARRIVAL_GRACE.total_seconds(),
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, one document a line.")] = False,
) -> None:
    """Match the provider's charges and operations with our payments, and print every difference.

    Exit code 0 when there is none, 1 when there is one, 2 when a side can not be asked.
    """
    if not report:
        raise _unanswered("say --report; reconciling itself is `tercet worker reconcile`")
    try:
        settings = settings_of(data_dir)
        configure_logging("reconcile", settings.model_copy(update={"log_level": "ERROR"}))
        moment = EPOCH if since is None else since.replace(tzinfo=since.tzinfo or UTC)
        comparison = asyncio.run(_report(settings, moment, grace_s, as_json))
    except (SettingsError, NotRunningError, ClosedFolderError, BooksUnanswered) as error:
        raise _unanswered(str(error)) from None
    except UNANSWERED as error:
        raise _unanswered(why_unanswered(error)) from None
    raise typer.Exit(1 if comparison.differences else 0)


def settings_of(data_dir: Path | None) -> BusinessSettings:
    """Of the local stack, if it is named or nothing else is; else of the variables."""
    if data_dir is not None or not os.environ.get("TERCET_PRIMARY_DSN"):
        from infra.local.stack import environment_of

        os.environ.update(environment_of(data_dir or DEFAULT_DATA_DIR))
    return load(BusinessSettings)


def _unanswered(reason: str) -> typer.Exit:
    typer.echo(f"tercet reconcile: {reason}", err=True)
    return typer.Exit(2)


async def _report(
    settings: BusinessSettings, since: datetime, grace_s: float, as_json: bool
) -> Comparison:
    comparison = Comparison()
    settings = settings.model_copy(update={"statement_timeout_ms": STATEMENT_TIMEOUT_MS})
    async with open_primary(settings) as primary, open_sandbox(settings) as (provider, _):
        async for one in compare_books(
            provider,
            primary,
            comparison,
            since=since,
            grace_s=grace_s,
            timeout_s=settings.provider_timeout_ms / 1000,
        ):
            _print(one, as_json)
    for line in summary(comparison, as_json):
        print(line)
    return comparison


def _print(one: Difference, as_json: bool) -> None:
    if not as_json:
        print(f"{'in flight ' if one.in_flight else 'DIFFERENCE'}  {one.text()}")
        return
    fields = {name: value for name, value in one._asdict().items() if name != "amount"}
    amount = {"amount_minor": one.amount.amount_minor, "currency": one.amount.currency}
    print(_json(fields | amount))


def summary(comparison: Comparison, as_json: bool) -> Iterable[str]:
    """Counts and sums by currency, then what it came to."""
    rows = sorted(comparison.sums.items())
    if as_json:
        sums = [
            {"subject": subject, "became": became, "currency": currency, "count": of.count,
                "amount_minor": of.amount_minor}
            for (subject, became, currency), of in rows
        ]  # fmt: skip
        counts = {"differences": comparison.differences, "in_flight": comparison.in_flight}
        yield _json({"sums": sums, **counts})
        return
    for (subject, became, currency), of in rows:
        yield f"{subject:<10} {became:<10} {of.count:>12,} {of.amount_minor:>18,} {currency}"
    yield f"{comparison.differences} differences, {comparison.in_flight} in flight"


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document, sort_keys=True)
