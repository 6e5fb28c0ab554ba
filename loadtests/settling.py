"""The end of a run that broke things: waiting until all payments are final, then the proof."""

from __future__ import annotations

import asyncio
import re
import sys
from typing import Final

import asyncpg

from loadtests.accounts import dsn
from loadtests.own_stack import Shop
from loadtests.programs import BrokenRunError
from loadtests.result import PROJECT
from loadtests.story import Check
from loadtests.waiting import NotInTimeError, until

# docs/payments.md has which states are final.
OPEN: Final = "select count(*) from payments where state in ('INIT', 'PENDING', 'UNKNOWN')"
PAID: Final = "select count(*) from payments"
WAITING: Final = "select count(*) from mails where state = 'waiting'"
GIVEN_UP: Final = "select count(*) from mails where state = 'dead'"
FINAL_WITHIN_S: Final = 90.0  # reconcile asks after seconds, and again at growing distances
PROVE_S: Final = 120.0
ASKS: Final = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError)


async def all_final(shop: Shop, *, within_s: float = FINAL_WITHIN_S) -> Check:
    """Every payment ends with the provider's own word, and none is left in between."""
    counts = [0, 0]

    async def none_open() -> bool:
        counts[:] = await _counts(shop, OPEN, PAID)
        return counts[0] == 0

    what = f"all payments are final within {within_s:g} s after the load"
    try:
        took_s = await until(none_open, within_s=within_s, what=what)
    except NotInTimeError:
        return Check(what, held=False, detail=f"{counts[0]} of {counts[1]} are not")
    return Check(what, held=True, detail=f"{counts[1]} payments after {took_s:.1f} s")


async def all_mailed(shop: Shop, *, within_s: float = FINAL_WITHIN_S) -> Check:
    """Every mail that was promised is with its server: none waits, and none was given up."""
    counts = [0, 0]

    async def none_left() -> bool:
        counts[:] = await _counts(shop, WAITING, GIVEN_UP)
        return counts == [0, 0]

    what = f"all mails are sent within {within_s:g} s after the load"
    try:
        took_s = await until(none_left, within_s=within_s, what=what)
    except NotInTimeError:
        return Check(what, held=False, detail=f"{counts[0]} wait, {counts[1]} were given up")
    return Check(what, held=True, detail=f"after {took_s:.1f} s")


async def _counts(shop: Shop, *queries: str) -> list[int]:
    """What these queries count; -1 each where the database does not say."""
    try:
        connection = await asyncpg.connect(dsn(shop, "tercet_app", "app_password"), timeout=2)
        try:
            return [await connection.fetchval(query) for query in queries]
        finally:
            await connection.close()
    except ASKS:
        return [-1] * len(queries)


async def prove(shop: Shop, *, with_provider: bool = True) -> tuple[Check, str]:
    """`tercet prove` on the stack: whether every rule of the books holds, and all that it said."""
    command = [sys.executable, "-m", "infra.cli", "prove", "--data-dir", str(shop.folder)]
    command += [] if with_provider else ["--without-provider"]
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=PROJECT,
    )
    try:
        async with asyncio.timeout(PROVE_S):
            out, _ = await process.communicate()
    except TimeoutError:
        raise BrokenRunError(f"tercet prove took over {PROVE_S:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    said = out.decode()
    lines = [line for line in said.splitlines() if line.strip()]
    held = process.returncode == 0
    detail = lines[-1].strip() if lines else f"exit code {process.returncode}"
    return Check("tercet prove: every rule of the books", held, re.sub(r"\s+", " ", detail)), said
