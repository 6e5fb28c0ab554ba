"""Structured concurrency: a task is a child of what started it, but for those that are named."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from services import business, data

# Each of them outlives what started it on purpose, or is ended by it.
NAMED: Final = {
    "shop.py: hand_over": "a payment that has begun is settled; finish() waits for all of them",
    "workers.py: _serve": "the worker and its stop, both ended by end_tasks",
    "sandbox_ledger.py: charge": "the provider's own ledger, in another process",
    "sandbox.py: _sending": "the sender of webhooks of the same process, ended with its server",
    "sandbox_webhooks.py: send_due": "waits for all of them",
    "webhooks.py: handle": "waits for all of them",
    "cache.py: _answered": "one load serves all who join it; ends by its own deadline",
    "cache.py: settled": "waits for all of them",
    "filling.py: _behind": "storing while the readers have their answer; ends by Valkey's timeout",
    "hashers.py: ask": "a hash that is under way ends though nobody waits for it; ends by ANSWER_S",
    "hashers.py: aclose": "waits for all of them",
    "joined.py: _send": "reads of many callers in one; ends by Valkey's timeout",
    "batch.py: _open_lane": "a batch of many callers in one transaction; ends when nothing waits",
    "shop.py: finish": "waits for all of them",
    "hosts.py: _race": "of several hosts the first to answer; the others are cancelled",
    "pool.py: _recover": "a connection whose statement was cancelled; ends by RECOVER_TIMEOUT_S",
    "standbys.py: look_once": "waits for all of them",
    "store.py: open_store": "the watch and the tag stream, ended by end_tasks",
    "wake.py: listening": "ended by end_tasks",
}
SPAWNS: Final = ("create_task", "ensure_future", "gather", "shield")


def spawns(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    """Calls that start or detach tasks outside a TaskGroup, with the function they stand in."""
    for function in ast.walk(tree):
        if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        groups = {
            item.optional_vars.id
            for block in ast.walk(function)
            if isinstance(block, ast.AsyncWith)
            for item in block.items
            if isinstance(item.optional_vars, ast.Name) and "TaskGroup" in ast.dump(item)
        }
        for call in ast.walk(function):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
                continue
            owner = call.func.value
            if not isinstance(owner, ast.Name) or owner.id in groups:
                continue
            if call.func.attr in SPAWNS and owner.id in ("asyncio", "loop"):
                yield function.name, call


def found() -> set[str]:
    places = set()
    for package in (business, data):
        for path in Path(str(package.__file__)).parent.rglob("*.py"):
            if "imports" in path.parts:  # commands, not requests
                continue
            for function, _ in spawns(ast.parse(path.read_text())):
                places.add(f"{path.name}: {function}")
    return places


def test_no_task_is_started_outside_a_group_but_those_with_a_reason() -> None:
    assert found() - set(NAMED) == set()


def test_one_that_is_started_anywhere_else_is_found() -> None:
    source = """
async def handler(shop):
    async with asyncio.TaskGroup() as group:
        group.create_task(fine())
    asyncio.create_task(forgotten())
    await asyncio.gather(a(), b())
"""
    assert [name for name, _ in spawns(ast.parse(source))] == ["handler", "handler"]
