"""What `tercet up` shows: a live table on a terminal, plain lines in a pipe."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live
    from rich.table import Table

HEADINGS: Final = ("part", "state", "pid", "address", "memory", "restarts", "")
BAR_CELLS: Final = 20
MIB: Final = 1024 * 1024
COLOURS: Final = {
    "running": "green",
    "done": "green",
    "external": "cyan",
    "failed": "red",
    "restarting": "red",
    "not answering": "red",
}


def plain_line(part: Mapping[str, Any]) -> str:
    """One part as one line: name, state, and what is known of pid, address and restarts."""
    words = [f"{part['name']:<16} {part['state']:<13}"]
    if part.get("pid"):
        words.append(f"pid {part['pid']}")
    if part.get("address"):
        words.append(str(part["address"]))
    if part.get("memory_bytes"):
        words.append(f"{part['memory_bytes'] / MIB:.0f} MiB")
    if part.get("restarts"):
        words.append(f"{part['restarts']} restarts, last {part['last_exit']}")
    if part.get("detail"):
        words.append(f"({part['detail']})")
    return "  ".join(words).rstrip()


def table(parts: Sequence[Mapping[str, Any]]) -> Table:
    """All parts as a table, and the sum of their memory."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    rows = [_row(part) for part in parts]
    total = sum(int(part.get("memory_bytes") or 0) for part in parts)
    rows.append(("", "", "", "", _mebibytes(total), "", ""))
    result = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for heading in HEADINGS:
        right = heading in ("pid", "memory", "restarts")
        # Only the column of notes, which has no heading, gives way on a narrow terminal.
        result.add_column(heading, justify="right" if right else "left", no_wrap=bool(heading))
    for *words, note in rows:
        cells = [Text(word) for word in words]
        cells[1].stylize(COLOURS.get(words[1], "yellow"))
        result.add_row(*cells, Text(note, style="dim", no_wrap=True, overflow="ellipsis"))
    return result


def _row(part: Mapping[str, Any]) -> tuple[str, str, str, str, str, str, str]:
    note = _with_bar(str(part.get("detail") or ""))
    if part.get("restarts") and part["state"] == "running":
        note = f"last: {part['last_exit']}  {note}"
    return (
        str(part["name"]),
        str(part["state"]),
        str(part.get("pid") or ""),
        str(part.get("address") or ""),
        _mebibytes(int(part.get("memory_bytes") or 0)),
        str(part.get("restarts") or ""),
        note,
    )


def _mebibytes(size_bytes: int) -> str:
    return f"{size_bytes / MIB:.0f} MiB" if size_bytes else ""


def _with_bar(detail: str) -> str:
    """A bar in place of "catalog 2500/10000" while a task works, any other words as they are."""
    found = re.fullmatch(r"\w+ (\d+)/(\d+)", detail)
    if not found or not int(found[2]):
        return detail
    share = min(1.0, int(found[1]) / int(found[2]))
    full = round(share * BAR_CELLS)
    return f"{'━' * full}{'─' * (BAR_CELLS - full)} {share:4.0%} of {int(found[2]):,}"


class Terminal:
    """Shows how the stack is to whoever started it."""

    def __init__(self, started: float, parts: Callable[[], list[dict[str, Any]]]) -> None:
        self._started = started
        self._parts = parts
        self._shown: dict[str, tuple[Any, ...]] = {}
        self._farewell: RenderableType = ""
        self._live: Live | None = None
        if sys.stdout.isatty():
            from rich.live import Live

            # Refreshed by us: a thread of rich's own would fork with us.
            self._live = Live(auto_refresh=False, transient=False)
            self._live.start()

    def update(self) -> None:
        """Show what is new."""
        parts = self._parts()
        if self._live is not None:
            from rich.console import Group

            self._live.update(Group(table(parts), self._farewell), refresh=True)
            return
        for part in parts:
            key = (part["state"], part["pid"], part["detail"] if _tells(part) else "")
            if self._shown.get(part["name"]) != key and part["state"] != "waiting":
                self._shown[part["name"]] = key
                self.say(f"{time.monotonic() - self._started:6.2f} s  {plain_line(part)}")

    def say(self, text: str) -> None:
        """A line of its own, above the table where there is one."""
        if self._live is not None:
            self._live.console.print(text, highlight=False, markup=False, soft_wrap=True)
        else:
            print(text, flush=True)

    def greet(self, text: str) -> None:
        """The address and the lines to try: kept in sight, and easy to copy whole."""
        self.say(text)

    def close(self) -> None:
        """Leave the last table where it is."""
        if self._live is not None:
            self._live.stop()


def _tells(part: Mapping[str, Any]) -> bool:
    """Whether the detail of a part is news, not a figure that changes all the time."""
    return bool(part["is_task"]) or part["state"] not in ("running", "not answering")


def greeting(url: str, log_folder: Path, product: Mapping[str, str] | None) -> str:
    """The address of the shop and three lines to try, for bash and sh."""
    lines = [f"Tercet is up: {url}   (logs: {log_folder}; Ctrl-C or `tercet down` stops it)"]
    if product is None:
        lines.append(
            "There are no products yet: tercet catalog import FILE, or tercet catalog generate"
        )
        return "\n".join(lines)
    curl = r"curl -sw '\n'"  # ends its output with a line break
    key = '-H "idempotency-key: try-$(date +%s)-$$"'
    body = '{"lines":[{"variant_id":"' + product["variant_id"] + '","quantity":1}]}'
    order = f"curl -s {url}/orders -H 'content-type: application/json' {key} -d '{body}'"

    def taken(name: str) -> str:
        return f'$(printf %s "$order" | sed \'s/.*"{name}": *"\\([^"]*\\)".*/\\1/\')'

    pay = (
        f'{curl} "{url}/orders/{taken("order_id")}/payments" '
        f'-H "authorization: Bearer {taken("customer_token")}" '
        f"-H 'content-type: application/json' {key} -d '" + '{"payment_method":"tok_approve"}' + "'"
    )
    # An order that was refused is shown instead of being paid.
    refused = "printf '%s\\n' \"$order\""
    both = f"order=$({order}); case $order in *'\"order_id\"'*) {pay};; *) {refused};; esac"
    lines += [
        "",
        "a product page:",
        f"  {curl} {url}/products/{product['slug']}",
        "a list:",
        f"  {curl} '{url}/products?q={product['word']}&sort=price'",
        "order and pay:",
        f"  {both}",
        "",
    ]
    return "\n".join(lines)
