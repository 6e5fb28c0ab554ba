"""What `tercet up` shows: a live table on a terminal, plain lines in a pipe."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

    from infra.local.folder import DataFolder

HEADINGS: Final = ("part", "state", "pid", "address", "memory", "restarts", "detail")
NARROW_CELLS: Final = 110  # below, pid and restarts give way, so that the detail has room
NOT_IF_NARROW: Final = ("pid", "restarts")
BAR_CELLS: Final = 6  # share, bar and sum fit beside the rest in 80 columns
TABLE_EXTRA_LINES: Final = 6  # headings, a rule, the sum, empty lines
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
        words.append(f"({_one_line(part['detail'])})")
    return "  ".join(words).rstrip()


def plain_table(parts: Sequence[Mapping[str, Any]]) -> str:
    """All parts in aligned columns, as wide as they are: for a pipe or a file."""
    rows = [HEADINGS, *map(_row, parts)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def table(parts: Sequence[Mapping[str, Any]], width: int) -> Table:
    """All parts as a table for a terminal of that width, and the sum of their memory."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    rows = [_row(part) for part in parts]
    total = sum(int(part.get("memory_bytes") or 0) for part in parts)
    rows.append(("", "", "", "", _mebibytes(total), "", ""))
    result = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    left_out = NOT_IF_NARROW if width < NARROW_CELLS else ()
    shown = [number for number, heading in enumerate(HEADINGS) if heading not in left_out]
    for heading in (HEADINGS[number] for number in shown):
        right = heading in ("pid", "memory", "restarts")
        # Only the detail gives way: rich takes from columns that may wrap, its words do not.
        justify: Literal["right", "left"] = "right" if right else "left"
        result.add_column(heading, justify=justify, no_wrap=heading != "detail")
    for *words, note in rows:
        cells = [*map(Text, words), Text(note, style="dim", no_wrap=True, overflow="ellipsis")]
        cells[1].stylize(COLOURS.get(words[1], "yellow"))
        result.add_row(*(cells[number] for number in shown))
    return result


def _row(part: Mapping[str, Any]) -> tuple[str, str, str, str, str, str, str]:
    note = _with_bar(_one_line(part.get("detail") or ""))
    if part.get("restarts") and part["state"] == "running":
        times = "" if part["restarts"] == 1 else f" {part['restarts']} times"
        note = f"restarted{times}, last: {part['last_exit']}  {note}"
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


def _one_line(detail: object) -> str:
    return " ".join(str(detail).split())


def _with_bar(detail: str) -> str:
    """A bar in place of "catalog 2500/10000" while a task works, any other words as they are."""
    found = re.fullmatch(r"\w+ (\d+)/(\d+)", detail)
    if not found or not int(found[2]):
        return detail
    share = min(1.0, int(found[1]) / int(found[2]))
    full = round(share * BAR_CELLS)
    return f"{share:4.0%} {'━' * full}{'─' * (BAR_CELLS - full)} of {int(found[2]):,}"


class Terminal:
    """Shows how the stack is to whoever started it."""

    def __init__(self, started: float, parts: Callable[[], list[dict[str, Any]]]) -> None:
        self._started = started
        self._parts = parts
        self._shown: dict[str, tuple[Any, ...]] = {}
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
            with suppress(OSError):  # a terminal that was closed
                self._live.update(table(parts, self._live.console.width), refresh=True)
            return
        for part in parts:
            if self._is_news(part):
                self.say(f"{time.monotonic() - self._started:6.2f} s  {plain_line(part)}")

    def _is_news(self, part: dict[str, Any]) -> bool:
        """Whether a line says something of a part that none has said; a detail is said once."""
        name, detail = part["name"], part["detail"] if _tells(part) else ""
        before = self._shown.get(name)
        key = self._shown[name] = (part["state"], part["pid"], detail)
        if before and part["state"] == "done" and before[2] == detail:
            part["detail"] = ""
        return before != key and part["state"] != "waiting"

    def say(self, text: str) -> None:
        """A line of its own, above the table where there is one."""
        with suppress(OSError):
            if self._live is not None:
                self._live.console.print(text, highlight=False, markup=False, soft_wrap=True)
            else:
                print(text, flush=True)

    def greet(self, text: str) -> None:
        """The address and the lines to try: in sight, and easy to copy whole.

        Where the table leaves no room for them it stays above them as it is, and what comes is
        told line by line.
        """
        if self._live is not None:
            console = self._live.console
            lines = sum(1 + len(line) // console.width for line in text.splitlines())
            if lines + len(self._parts()) + TABLE_EXTRA_LINES > console.height:
                self.close()
                self._live = None
                for part in self._parts():
                    self._is_news(part)
        self.say(text)

    def close(self) -> None:
        """Leave the last table where it is."""
        if self._live is not None:
            with suppress(OSError):
                self._live.stop()


def _tells(part: Mapping[str, Any]) -> bool:
    """Whether the detail of a part is news, not a figure that changes all the time."""
    return bool(part["is_task"]) or part["state"] not in ("running", "not answering")


def greeting(
    url: str,
    folder: DataFolder,
    product: Mapping[str, str] | None,
    *,
    detached: bool,
    mailbox_url: str = "",
) -> str:
    """The address of the shop, how to stop it, and three lines to try, for bash and sh."""
    stop = folder.command("down") if detached else "Ctrl-C"
    lines = [f"Tercet is up: {url}", f"Its logs are in {folder.log}; to stop it: {stop}"]
    if mailbox_url:
        lines.append(f"Its mails are at {mailbox_url}")
    if product is None:
        lines.append(
            f"There are no products yet: {folder.command('catalog import FILE')}, "
            f"or {folder.command('catalog generate')}"
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
    ]
    return "\n".join(lines)
