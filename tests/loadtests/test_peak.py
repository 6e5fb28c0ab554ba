"""What `make peak` is made of, on the stack of the tests: a sale, faults, and the proof."""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest

from loadtests.outcome import conclude
from loadtests.own_stack import Shop
from loadtests.parts import Parts
from loadtests.perform import perform
from loadtests.profiles import PROFILES, Run
from loadtests.scenario import Fault, Sale, Scenario, Targets, Traffic, find, read
from loadtests.settling import all_final, all_mailed, prove
from tests.running_stack import RunningStack

STARTED_AT = datetime(2026, 1, 2, tzinfo=UTC)
SMALL = Scenario(
    "a small peak",
    (
        Traffic("page", name="page", rate=20.0, targets=Targets(error_rate=1)),
        Traffic("search", rate=2.0, targets=Targets(error_rate=1)),
        Traffic(
            "claim",
            rate=5.0,
            stages=((2, 1, 1), (2, 1, 1)),
            timeout_s=15,
            targets=Targets(error_rate=1),
        ),
        Traffic(
            "idle", rate=10.0, connections=5, target="/products", targets=Targets(error_rate=1)
        ),
    ),
    seconds=4,
    products=20,
    sale=Sale(opens_at_s=2, units=5, buyers=8),
    fault=(
        Fault(0.5, "brownout", for_s=1.0, mode="slow", delay_ms=100),
        Fault(1.0, "kill", part="worker-expiry"),
    ),
)


@pytest.mark.faults
async def test_a_sale_opens_faults_are_played_and_the_books_are_proved(
    stack: RunningStack, tmp_path: Path
) -> None:
    shop = Shop(stack.url, stack.data_dir)
    before = stack.part("worker-expiry")["pid"]
    outcome = await perform(Run.of(SMALL, PROFILES["average"]), shop, processes=1, seed=1)
    assert (await all_final(shop, within_s=60)).held
    proved, said = await prove(shop, with_provider=False)
    assert proved.held, said
    works = {one.work: one for one in outcome.recorders}
    claims = works["claim"]
    # Who came too early was told so, and nobody got more than there was.
    assert claims.refusals["flash-sale-not-open-yet"] > 0
    assert 0 < claims.answered <= 5
    assert works["idle"].answered == 5
    assert works["page"].answered > 0
    assert stack.part("worker-expiry")["pid"] != before
    assert [one.fault.does for one in outcome.played] == ["brownout", "kill"]
    assert all(one.mended_s is not None and one.mended_s > one.at_s for one in outcome.played)
    (killed,) = [one for one in outcome.checks if "worker-expiry killed" in one.what]
    assert killed.held
    assert "healthy again after" in killed.detail
    conclude([outcome], "peak", settings={}, started_at=STARTED_AT, folder=tmp_path)
    result = json.loads((tmp_path / "peak.json").read_text())
    assert [mark["what"] for mark in result["marks"]] == [
        "provider: slow for 100%",
        "worker-expiry killed",
        "the sale opens",
    ]
    assert {"cores", "bytes", "req/s", "errors/s", "ms"} == {
        one["unit"] for one in result["series"]
    }


@pytest.mark.faults
async def test_a_crash_and_a_rolling_restart_put_others_in_the_place_of_who_served(
    stack: RunningStack,
) -> None:
    parts = Parts(stack.data_dir)
    before = {name: (parts.look(name).pid, parts.serving(name)) for name in ("access", "business")}
    scenario = Scenario(
        "crash and reload",
        (Traffic("page", name="page", rate=20.0, timeout_s=20, targets=Targets()),),
        seconds=3,
        products=20,
        fault=(Fault(0.2, "crash", part="business"), Fault(0.2, "reload", part="access")),
    )
    shop = Shop(stack.url, stack.data_dir)
    outcome = await perform(Run.of(scenario, PROFILES["average"]), shop, processes=1, seed=1)
    assert all(check.held for check in outcome.checks if "healthy" in check.what), outcome.checks
    for name, (pid, serving) in before.items():
        assert parts.look(name).pid == pid
        assert serving
        assert not parts.serving(name) & serving


async def test_the_other_traffic_is_answered_too(stack: RunningStack) -> None:
    """Logins on connections of their own, batches of events, live streams that stay."""
    never = Targets(error_rate=1)
    traffic = (
        Traffic("login", rate=2.0, short=True, timeout_s=20, targets=never),
        Traffic("events", rate=4.0, batch=5, timeout_s=20, targets=never),
        Traffic("signup", rate=1.0, arrivals="constant", timeout_s=20, targets=never),
        Traffic("live", rate=20.0, connections=10, timeout_s=20, targets=Targets(still_open=1)),
    )
    scenario = Scenario("the rest", traffic, seconds=2, products=20)
    shop = Shop(stack.url, stack.data_dir)
    outcome = await perform(Run.of(scenario, PROFILES["average"]), shop, processes=2, seed=1)
    works = {one.work: one for one in outcome.recorders}
    assert works["login"].answered > 0, works["login"].errors
    assert works["events"].answered > 0, works["events"].errors
    assert works["live"].answered == 10
    signups = works["signup"]
    assert signups.answered + signups.refusals["too many mails"] == 2, signups.errors
    assert all(check.held for check in outcome.checks if "live" in check.what), outcome.checks


async def test_what_is_not_final_or_not_proved_is_told(stack: RunningStack) -> None:
    """A proof of another folder is none, and payments nobody can ask for are not final."""
    nowhere = Shop(stack.url, stack.data_dir / "nowhere")
    proved, said = await prove(nowhere)
    assert not proved.held
    assert "tercet prove: no stack is running" in said


async def test_a_mail_that_still_waits_is_told(stack: RunningStack) -> None:
    connection = await asyncpg.connect(stack.dsn())
    put = """
        insert into mails (recipient, subject, body, next_attempt_at)
        values ('later@example.com', 's', 'b', now() + interval '1 hour') returning mail_id
    """
    try:
        mail_id = await connection.fetchval(put)
        check = await all_mailed(Shop(stack.url, stack.data_dir), within_s=0.1)
        await connection.execute("delete from mails where mail_id = $1", mail_id)
    finally:
        await connection.close()
    assert not check.held
    assert "1 wait" in check.detail


def test_the_peak_has_a_fault_of_each_kind_within_its_time() -> None:
    scenario = read(find("peak"))
    faults = {(fault.does, fault.part) for fault in scenario.fault}
    assert faults == {
        ("pause", "standby"),
        ("kill", "valkey"),
        ("brownout", "provider"),
        ("kill", "business"),
        ("restart", "primary"),
    }
    assert all(fault.at_s < scenario.seconds - 15 for fault in scenario.fault)
    assert scenario.sale is not None


@pytest.mark.faults
@pytest.mark.timeout(400)
async def test_the_whole_of_it_ends_with_one_exit_code(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "loadtests.peak", "--seconds", "60", "--load", "0.5"]
    process = await asyncio.create_subprocess_exec(
        *command, "--results", str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    assert "every rule of the books" in out.decode()
