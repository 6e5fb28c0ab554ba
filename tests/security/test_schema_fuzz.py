"""S28: Schemathesis over the OpenAPI document, through access, as two guests and an operator."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from tests.running_stack import RunningStack
from tests.security.guests import Goods, Guest, client_of

PROJECT: Final = Path(__file__).resolve().parents[2]
# A seed of its own each night finds more; the same one every time tells a change from luck.
SHORT: Final = ("--max-examples", "3", "--seed", "1", "--no-shrink")
LONG: Final = ("--max-examples", "200")
# test_boundary.py asks every route for every method; the long form does so with every check.
NO_OTHER_METHODS: Final = "phases.coverage.unexpected-methods = []"
# What access answers itself: a stream has no end that a client of one answer could wait for.
# tests/access/test_beacons.py and test_live.py have them.
OF_ACCESS: Final = ("/events", "/live")
PHASES: Final = frozenset(("Examples", "Coverage", "Fuzzing", "Stateful"))


def test_every_answer_is_the_one_the_document_promises(
    stack: RunningStack, goods: Goods, alice: Guest, bob: Guest, tmp_path: Path
) -> None:
    fuzz(stack, goods, (alice, bob), tmp_path, SHORT, settings=NO_OTHER_METHODS)


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_two_hundred_examples_an_operation_find_nothing(
    stack: RunningStack, goods: Goods, alice: Guest, bob: Guest, tmp_path: Path
) -> None:
    fuzz(stack, goods, (alice, bob), tmp_path, LONG)


def fuzz(
    stack: RunningStack,
    goods: Goods,
    guests: tuple[Guest, Guest],
    folder: Path,
    options: tuple[str, ...],
    *,
    settings: str = "",
) -> None:
    """Every phase and every check there is; then every operation was called, each phase ran."""
    (folder / "users.json").write_text(json.dumps(users(stack, guests)))
    (folder / "fuzz.toml").write_text(configuration(slugs(stack), goods, guests, settings))
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", "fuzz.toml", "run"]
    command += [f"{stack.url}/openapi.json", "--checks", "all", "--continue-on-failure", *options]
    for path in OF_ACCESS:
        command += ["--exclude-path", path]
    report = folder / "report.ndjson"
    command += ["--report", "ndjson", "--report-ndjson-path", str(report)]
    done = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    release_breakers(stack)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
    assert operations_called(report) == operations_documented(stack)
    for phase in PHASES:
        assert f"✅ {phase}" in done.stdout, done.stdout[-5_000:]


def users(stack: RunningStack, guests: tuple[Guest, Guest]) -> dict[str, Any]:
    """Who calls: an operation that refuses the guests is called as the operator."""
    tokens = {
        "alice": guests[0].token,
        "bob": guests[1].token,
        "operator": stack.secret("operator_token"),
    }
    headers = {
        name: [{"name": "Authorization", "value": f"Bearer {token}"}]
        for name, token in tokens.items()
    }
    return {"auth": [{"name": name, "fixedHeaders": headers[name]} for name in tokens]}


def configuration(
    slugs: list[str], goods: Goods, guests: tuple[Guest, Guest], settings: str
) -> str:
    """Ids that exist, for a half of what is sent; the rest is made up."""
    orders = [guest.order_id for guest in guests]
    return f"""
hooks = "tests.security.schemathesis_hooks"
cache = {{ enabled = false }}
auth.wfc = {{ path = "users.json", peers = ["alice", "bob"] }}
generation.database = "none"
{settings}
# The operator's routes refuse both guests first, which is no finding.
warnings = false

[dictionaries]
slugs = {{ values = {json.dumps(slugs)} }}
variants = {{ values = ["{goods.variant_id}"] }}
orders = {{ values = {json.dumps(orders)} }}
methods = {{ values = ["tok_approve", "tok_decline"] }}
upstreams = {{ values = ["provider"] }}

[parameters]
"path.slug" = {{ dictionary = "slugs", probability = 0.5 }}
"path.upstream" = {{ dictionary = "upstreams", probability = 0.5 }}
"path.order_id" = {{ dictionary = "orders", probability = 0.5 }}
"body.lines[*].variant_id" = {{ dictionary = "variants", probability = 0.7 }}
"body.variant_id" = {{ dictionary = "variants", probability = 0.7 }}
"body.payment_method" = {{ dictionary = "methods", probability = 0.7 }}
"""


def release_breakers(stack: RunningStack) -> None:
    """The operator may have held the provider's open or closed; the others it does not know."""
    with client_of(stack) as client:
        client.headers["authorization"] = f"Bearer {stack.secret('operator_token')}"
        for item in client.get("/operator/upstreams").json()["items"]:
            assert item["forced"] is None or item["name"] == "provider"
            answer = client.put(f"/operator/upstreams/{item['name']}", json={"forced": None})
            assert answer.status_code == 200


def slugs(stack: RunningStack) -> list[str]:
    with client_of(stack) as client:
        return [item["slug"] for item in client.get("/products?limit=5").json()["items"]]


def operations_documented(stack: RunningStack) -> set[str]:
    with client_of(stack) as client:
        paths = client.get("/openapi.json").json()["paths"]
    return {
        f"{method.upper()} {path}"
        for path, methods in paths.items()
        for method in methods
        if path not in OF_ACCESS
    }


def operations_called(report: Path) -> set[str]:
    """The operations that the report's scenarios name."""
    called = set()
    for line in report.read_text().splitlines():
        event = json.loads(line).get("ScenarioFinished", {})
        if event.get("recorder", {}).get("interactions"):
            called.add(event["recorder"]["label"])
    return called - {"Stateful tests"}


def environment() -> dict[str, str]:
    """Without proxies: everything here is on this machine."""
    kept = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    return {**kept, "PYTHONPATH": str(PROJECT), "NO_COLOR": "1"}
