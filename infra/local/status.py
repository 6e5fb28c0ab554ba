"""`tercet status`: how the running stack is, with its memory measured now."""

from __future__ import annotations

import json
import sys
from typing import Any

from infra.local.folder import DataFolder
from infra.local.processes import memory_bytes


def current(folder: DataFolder) -> dict[str, Any]:
    """What the supervisor wrote last, with memory as it is now; NotRunningError when stopped."""
    state = folder.running_state()
    for part in state["parts"]:
        part["memory_bytes"] = memory_bytes(part["pid"]) if part["pid"] else 0
    # The supervisor's family would be everything: only it and its guard are counted here.
    own = [state[name]["pid"] for name in ("supervisor", "guard")]
    state["supervisor"]["memory_bytes"] = sum(memory_bytes(pid, family=False) for pid in own)
    state["memory_bytes"] = state["supervisor"]["memory_bytes"] + sum(
        part["memory_bytes"] for part in state["parts"]
    )
    return state


def show(state: dict[str, Any], *, as_json: bool) -> int:
    """Print the state; the exit code is 0 when everything runs."""
    if as_json:
        document = {name: value for name, value in state.items() if name != "greeting"}
        print(json.dumps(document, indent=1))
    else:
        from rich.console import Console

        from infra.local.terminal import MIB, plain_table, table

        supervisor = {
            **state["supervisor"],
            "name": "supervisor",
            "state": state["phase"],
            "detail": "and its guard",
        }
        parts = [*state["parts"], supervisor]
        if sys.stdout.isatty():
            console = Console(highlight=False)
            console.print(table(parts, console.width))
        else:
            print(plain_table(parts))
        print(f"{state['url']}  {state['phase']}, {state['memory_bytes'] / MIB:.0f} MiB in all")
    return 0 if state["phase"] == "ready" else 1
