"""`tercet prove`: checks every invariant there is against the books of a running stack."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from infra.local.folder import DEFAULT_DATA_DIR, ClosedFolderError, NotRunningError
from infra.unanswered import UNANSWERED, why_unanswered
from services.business.provider_books import BooksUnanswered
from services.business.provider_proofs import PROVIDER_RULES, ProviderFinding, prove_books
from services.business.providers.sandbox_adapter import open_sandbox
from services.data.log_proofs import LOG_RULE, prove_log
from services.data.log_reader import LogAway
from services.data.payment_reviews import count_open_reviews
from services.data.proofs import RULES, Finding, find_violations
from services.data.sources import Primary
from services.data.store import open_primary
from services.settings import BusinessSettings, DatabaseSettings, SettingsError, load
from services.telemetry import configure_logging
from services.valkey import connect_events

STATEMENT_TIMEOUT_MS = 600_000  # a proof reads whole tables
LOG_TIMEOUT_S = 60.0  # and all that is in the log


def prove(
    data_dir: Annotated[
        Path | None,
        typer.Option(
            "--data-dir",
            readable=False,
            help="Folder of the local stack to check; without it the TERCET_… variables name the "
            "database if TERCET_PRIMARY_DSN is set, else the stack in .tercet does.",
        ),
    ] = None,
    without_provider: Annotated[
        bool,
        typer.Option("--without-provider", help="Leave out what the provider's own books say."),
    ] = False,
) -> None:
    """Check every invariant: stock, orders, payments, ledger, keys, outbox, analytics, the
    provider's books.

    Exit code 0 when all hold, 1 when one is broken (its rows are named), 2 when the database, the
    log of events or the provider can not be asked.
    """
    try:
        if data_dir is not None or not os.environ.get("TERCET_PRIMARY_DSN"):
            from infra.local.stack import environment_of

            os.environ.update(environment_of(data_dir or DEFAULT_DATA_DIR))
        settings = load(DatabaseSettings)
        at_provider = None if without_provider else load(BusinessSettings)
        configure_logging("prove", settings.model_copy(update={"log_level": "ERROR"}))
        broken = asyncio.run(_prove(settings, at_provider))
    except (SettingsError, NotRunningError, ClosedFolderError) as error:
        raise _unanswered(str(error)) from None
    except BooksUnanswered as error:
        raise _unanswered(f"{error} (--without-provider leaves it out)") from None
    except LogAway as error:
        raise _unanswered(f"the log of events: {error}") from None
    except UNANSWERED as error:
        raise _unanswered(why_unanswered(error)) from None
    raise typer.Exit(1 if broken else 0)


def _unanswered(reason: str) -> typer.Exit:
    typer.echo(f"tercet prove: {reason}", err=True)
    return typer.Exit(2)


async def _prove(settings: DatabaseSettings, at_provider: BusinessSettings | None) -> int:
    """How many are broken. Raises BooksUnanswered only where none is: that is the worse news."""
    console = Console(highlight=False)
    broken = 0
    unanswered: BooksUnanswered | None = None
    settings = settings.model_copy(update={"statement_timeout_ms": STATEMENT_TIMEOUT_MS})
    async with open_primary(settings) as primary:
        async for finding in find_violations(primary):
            _print(console, finding)
            broken += bool(finding.broken)
        if settings.events_url:
            finding = await _of_log(primary, settings)
            _print(console, finding)
            broken += bool(finding.broken)
        reviews = await count_open_reviews(primary)
        console.print(f"        {'webhooks':<12} reviews that are open ({reviews:,})")
        if at_provider is not None:
            try:
                for proof in await _at_provider(primary, at_provider):
                    _print(console, proof)
                    broken += bool(proof.broken)
            except BooksUnanswered as error:
                unanswered = error
    count = len(RULES) + bool(settings.events_url)
    count += len(PROVIDER_RULES) if at_provider and not unanswered else 0
    verdict = f"{broken} broken" if broken else "all hold"
    console.print(f"{count} invariants, {verdict}")
    if unanswered is not None:
        console.print("the provider's books are not proved", soft_wrap=True)
        if not broken:
            raise unanswered
    return broken


async def _of_log(primary: Primary, settings: DatabaseSettings) -> Finding:
    valkey = connect_events(settings, timeout_s=LOG_TIMEOUT_S)
    if valkey is None:
        return Finding(LOG_RULE, 0, [])
    try:
        return await prove_log(primary, valkey)
    finally:
        await valkey.aclose()


async def _at_provider(primary: Primary, settings: BusinessSettings) -> list[ProviderFinding]:
    timeout_s = settings.provider_timeout_ms / 1000
    async with open_sandbox(settings) as (provider, _):
        return await prove_books(provider, primary, timeout_s=timeout_s)


def _print(console: Console, finding: Finding | ProviderFinding) -> None:
    area, sentence = finding.rule.area, finding.rule.sentence
    mark = "[red]BROKEN[/red]" if finding.broken else "[green]holds [/green]"
    console.print(f"{mark}  {area:<12} {sentence} ({finding.checked_count:,})", soft_wrap=True)
    for row in finding.broken:
        console.print(f"        {row}", markup=False, soft_wrap=True)
