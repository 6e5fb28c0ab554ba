"""`tercet timeouts`: what was observed of each dependency, beside what is set."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator

import pytest

from infra.timeouts import ENOUGH_CALLS, Observed, lines, observed
from services.business.metrics import report_of, report_of_worker
from services.business.shop import Shop, open_shop
from tests.running_stack import RunningStack
from tests.shopping import business_settings


@pytest.fixture
async def shop(stack: RunningStack) -> AsyncIterator[Shop]:
    async with open_shop(business_settings(stack, cache_timeout_ms=20)) as opened:
        yield opened


def seen_of(name: str, rows: list[Observed]) -> Observed:
    return next(row for row in rows if row.name == name)


async def test_percentiles_are_of_all_processes_together(shop: Shop) -> None:
    provider = shop.provider_upstream.tally
    for took_s, times in ((0.002, 500), (0.09, 485), (0.6, 14), (4.0, 1)):
        for _ in range(times):
            provider.end("ok", took_s)
    texts = [report_of(shop, None).text(), report_of_worker(shop).text()]
    row = seen_of("provider", observed(texts))
    assert row.calls == 2000
    assert [row.percentile_s(part) for part in (0.5, 0.985, 0.99, 0.999, 1.0)] == [
        *(0.002, 0.1, 0.7, 0.7, 5.0)
    ]
    assert row.timeout_s == shop.settings.provider_timeout_ms / 1000
    assert not row.too_short()  # one call in a thousand may take longer


async def test_a_setting_below_what_is_seen_is_named(shop: Shop) -> None:
    for number in range(ENOUGH_CALLS):
        shop.store.valkey_upstream.tally.end("ok", 0.04 if number % 500 == 0 else 0.001)
    rows = observed([report_of(shop, None).text()])
    assert [row.name for row in rows if row.too_short()] == ["valkey"]
    said = lines(rows)
    assert (
        said[-1] == "TERCET_CACHE_TIMEOUT_MS is too short: the p99.9 of valkey is above its 20 ms"
    )
    assert "few calls" not in next(line for line in said if line.startswith("valkey"))
    assert "few calls" in next(line for line in said if line.startswith("provider"))


def test_the_running_stack_is_asked(stack: RunningStack) -> None:
    command = [sys.executable, "-m", "infra.cli", "timeouts", "--data-dir", str(stack.data_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    told = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert {"primary", "standby-1", "valkey", "provider"} <= told.keys()
    assert int(told["primary"].split()[1]) > 0
    assert "TERCET_STATEMENT_TIMEOUT_MS" in told["primary"]
