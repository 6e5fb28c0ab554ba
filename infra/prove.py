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
from services.data.proofs import RULES, Finding, find_violations
from services.data.store import open_primary
from services.settings import DatabaseSettings, SettingsError, load
from services.telemetry import configure_logging

STATEMENT_TIMEOUT_MS = 600_000  # a proof reads whole tables


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
) -> None:
    """Check every invariant: stock, orders, payments, ledger, idempotency keys, outbox.

    Exit code 0 when all hold, 1 when one is broken (its rows are named), 2 when the database
    can not be asked.
    """
    try:
        if data_dir is not None or not os.environ.get("TERCET_PRIMARY_DSN"):
            from infra.local.stack import environment_of

            os.environ.update(environment_of(data_dir or DEFAULT_DATA_DIR))
        settings = load(DatabaseSettings)
        configure_logging("prove", settings.model_copy(update={"log_level": "ERROR"}))
        broken = asyncio.run(_prove(settings))
    except (SettingsError, NotRunningError, ClosedFolderError) as error:
        raise _unanswered(str(error)) from None
    except UNANSWERED as error:
        raise _unanswered(why_unanswered(error)) from None
    raise typer.Exit(1 if broken else 0)


def _unanswered(reason: str) -> typer.Exit:
    typer.echo(f"tercet prove: {reason}", err=True)
    return typer.Exit(2)


async def _prove(settings: DatabaseSettings) -> int:
    console = Console(highlight=False)
    broken = 0
    settings = settings.model_copy(update={"statement_timeout_ms": STATEMENT_TIMEOUT_MS})
    async with open_primary(settings) as primary:
        async for finding in find_violations(primary):
            _print(console, finding)
            broken += bool(finding.broken)
    verdict = f"{broken} broken" if broken else "all hold"
    console.print(f"{len(RULES)} invariants, {verdict}")
    return broken


def _print(console: Console, finding: Finding) -> None:
    area, sentence = finding.rule.area, finding.rule.sentence
    mark = "[red]BROKEN[/red]" if finding.broken else "[green]holds [/green]"
    console.print(f"{mark}  {area:<12} {sentence} ({finding.checked_count:,})", soft_wrap=True)
    for row in finding.broken:
        console.print(f"        {row}", markup=False, soft_wrap=True)
