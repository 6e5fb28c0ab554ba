"""The whole stack as a user sees it: what it reports, what it suggests to try, how it heals."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from infra.local.addresses import get
from tests.running_stack import RunningStack

NAMES = (
    "primary", "bootstrap", "standby", "valkey", "events", "migrate", "catalog", "provider",
    "mailbox", "business", "worker-outbox", "worker-reconcile", "worker-expiry", "worker-webhooks",
    "worker-live", "worker-mails", "worker-rollups", "access",
)  # fmt: skip
# 700 MiB with four workers and one Valkey; since then three workers, a log of events and a mailbox
# have come, of some 45 MiB each.
AT_REST_BYTES = 750 * 1024 * 1024
HEAL_S = 30.0


def tercet(stack: RunningStack, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "infra.cli", *arguments, "--data-dir", str(stack.data_dir)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def lines_to_try(stack: RunningStack) -> list[str]:
    return [line.strip() for line in stack.state["greeting"].splitlines() if "curl" in line]


def test_status_tells_name_pid_address_state_and_memory_of_each_part(stack: RunningStack) -> None:
    done = tercet(stack, "status", "--json")
    status = json.loads(done.stdout)
    assert (done.returncode, status["phase"], status["url"]) == (0, "ready", stack.url)
    assert tuple(part["name"] for part in status["parts"]) == NAMES
    for part in status["parts"]:
        assert part["state"] in ("running", "done")
        if part["state"] == "running":
            assert part["memory_bytes"] > 0
            os.kill(part["pid"], 0)
            assert part["address"] or part["name"].startswith("worker-")


@pytest.mark.parametrize(
    ("name", "series"),
    [
        ("access", b"tercet_access_requests_total"),
        ("business", b"tercet_business_requests_total"),
        ("worker-outbox", b'tercet_worker_items_total{name="outbox"}'),
        ("worker-reconcile", b'tercet_worker_items_total{name="reconcile"}'),
        ("worker-expiry", b'tercet_worker_items_total{name="expiry"}'),
        ("worker-webhooks", b'tercet_worker_items_total{name="webhooks"}'),
        ("worker-live", b'tercet_worker_items_total{name="live"}'),
        ("worker-mails", b'tercet_worker_items_total{name="mails"}'),
        ("worker-rollups", b'tercet_worker_items_total{name="rollups"}'),
    ],
)
async def test_metrics_are_where_status_says(stack: RunningStack, name: str, series: bytes) -> None:
    address = stack.part(name)["internal_address"]
    assert f"metrics at {address}" in tercet(stack, "status").stdout
    host, _, port = address.rpartition(":")
    status, text = await get(host, int(port), "/metrics")
    assert (status, host) == (200, "127.0.0.1")
    assert series in text


def test_the_whole_stack_at_rest_takes_less_memory_than_promised(stack: RunningStack) -> None:
    """Before it is used: what other tests leave in caches and connections is no rest."""
    assert 0 < stack.memory_when_ready_bytes < AT_REST_BYTES
    assert json.loads(tercet(stack, "status", "--json").stdout)["memory_bytes"] > 0


def test_nothing_but_access_listens_beyond_this_machine(stack: RunningStack) -> None:
    addresses = [part["address"] for part in stack.state["parts"] if part["address"]]
    assert all(address.startswith("127.0.0.1:") for address in addresses)


def test_the_state_file_has_the_addresses_but_no_secret(stack: RunningStack) -> None:
    text = stack.folder.state_file.read_text()
    assert stack.environment["TERCET_PRIMARY_DSN"].startswith("postgresql://tercet_app@127.0.0.1:")
    assert stack.folder.state_file.stat().st_mode & 0o077 == 0
    assert not any(path.read_text() in text for path in stack.folder.secrets.iterdir())


def test_doctor_finds_nothing_wrong_with_a_healthy_stack(stack: RunningStack) -> None:
    said = tercet(stack, "doctor").stdout
    about_the_stack = [line for line in said.splitlines() if "installed into" not in line]
    assert not [line for line in about_the_stack if line.startswith("WRONG")]
    assert "standby: running, streaming" in said


def test_doctor_names_the_heaviest_statements(stack: RunningStack) -> None:
    said = tercet(stack, "doctor").stdout
    *_, heading, numbers = said.partition("total ms")
    assert heading, said
    rows = [line.split(maxsplit=4) for line in numbers.splitlines()[1:]]
    assert len(rows) == 10
    totals = [float(total) for total, *_ in rows]
    assert totals == sorted(totals, reverse=True)
    for total_ms, calls, mean_ms, server, _ in rows:
        assert abs(float(total_ms) / int(calls) - float(mean_ms)) < 0.1
        assert server in ("primary", "standby")


@pytest.mark.skipif(shutil.which("curl") is None, reason="the lines to try use curl")
@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_the_three_lines_to_try_work_when_they_are_pasted(stack: RunningStack, shell: str) -> None:
    page, listing, payment = (run_in(shell, line) for line in lines_to_try(stack))
    assert page["variants"][0]["price"]["amount_minor"] > 0
    assert page["slug"] in [item["slug"] for item in listing["items"]] or listing["items"]
    assert payment["state"] == "SUCCESS"


def run_in(shell: str, line: str) -> Any:
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"there is no {shell} here")
    done = subprocess.run([path, "-c", line], capture_output=True, timeout=30, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", ["provider", "worker-outbox", "business", "access"])
async def test_a_killed_process_comes_back_at_its_address(stack: RunningStack, name: str) -> None:
    before = stack.part(name)
    os.kill(before["pid"], signal.SIGKILL)
    deadline = time.monotonic() + HEAL_S
    while stack.part(name)["pid"] == before["pid"] or stack.part(name)["state"] != "running":
        assert time.monotonic() < deadline, stack.part(name)
        await asyncio.sleep(0.05)
    after = stack.part(name)
    assert after["address"] == before["address"]
    assert after["restarts"] == before["restarts"] + 1
    assert after["last_exit"] == "killed by SIGKILL"


@pytest.mark.skipif(shutil.which("curl") is None, reason="the lines to try use curl")
def test_the_line_that_pays_shows_why_an_order_was_refused(stack: RunningStack) -> None:
    line = lines_to_try(stack)[-1].replace('"quantity":1}', '"quantity":0}')
    assert run_in("sh", line)["status"] == 422
