"""The table and the lines that show the parts, on narrow terminals and in pipes."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from infra.local.terminal import plain_line, plain_table, table

ANSWER = "streaming, 0 bytes behind, and a good many words more than there is room for"


def part(name: str, state: str, detail: str) -> dict[str, Any]:
    return {
        "name": name,
        "state": state,
        "detail": detail,
        "pid": 4194304,
        "address": "127.0.0.1:65535",
        "memory_bytes": 512 << 20,
        "restarts": 0,
    }


PARTS = [
    part("worker-reconcile", "restarting", ""),
    part("standby", "running", ANSWER),
    part("catalog", "running", "catalog 2500/10000"),
]


def shown(width: int) -> str:
    console = Console(width=width, no_color=True)
    with console.capture() as capture:
        console.print(table(PARTS, width))
    return capture.get()


def test_eighty_columns_have_room_for_the_progress_of_the_catalog() -> None:
    text = shown(80)
    assert max(map(len, text.splitlines())) <= 80
    for words in ("detail", "25% ━━────", "127.0.0.1:65535", "restarting", "512 MiB"):
        assert words in text


def test_a_wide_terminal_shows_process_ids_too() -> None:
    assert "4194304" in shown(160)
    assert ANSWER in shown(200)


def test_a_pipe_gets_every_word_in_aligned_columns() -> None:
    lines = plain_table(PARTS).splitlines()
    assert ANSWER in lines[2]
    assert {line.find("127.0.0.1") for line in lines[1:]} == {lines[0].find("address")}


def test_a_detail_of_two_lines_is_told_on_one() -> None:
    said = plain_line(part("standby", "starting", "not yet accepting connections\nDETAIL:  soon"))
    assert said.endswith("(not yet accepting connections DETAIL: soon)")
