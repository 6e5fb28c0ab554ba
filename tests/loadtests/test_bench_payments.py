"""`python -m loadtests.bench_payments` with tiny counts: what it measures, prints and writes."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from loadtests.bench_payments import read_options
from loadtests.posts import Posts, Spent, post_bytes
from tests.running_stack import RunningStack

WITHIN_S = 100.0
TINY = ("--rounds", "1", "--seconds", "0.3", "--warm-up-s", "0", "--connections", "4")


async def bench(
    stack: RunningStack, results: Path, *options: str
) -> tuple[int | None, list[dict[str, Any]], str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtests.bench_payments", *TINY, *options),
        *("--data-dir", str(stack.data_dir), "--results", str(results)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(WITHIN_S):
        out, err = await process.communicate()
    written = json.loads((results / "bench-payments.json").read_text())
    assert list(written) == ["name", "commit", "machine", "started_at", "settings", "rows"]
    assert written["name"] == "bench-payments"
    assert str(stack.data_dir) not in json.dumps(written)
    return process.returncode, written["rows"], out.decode(), err.decode()


async def test_payments_and_claims_are_measured_against_pgbench(
    stack: RunningStack, tmp_path: Path
) -> None:
    code, rows, out, err = await bench(stack, tmp_path)
    assert (code, err) == (0, "")
    compared = {row["work"]: row for row in rows if row["peer"] is not None}
    aims = {work: row["aim"] for work, row in compared.items()}
    assert aims == {
        "payments, c=4": ">= 0.15",
        "payments, c=4, each on its own connection, p99": "<= 3",
        "claims of one hot product, c=4": ">= 5",
    }
    for row in compared.values():
        assert row["value"] > 0
        assert row["runs"] == [pytest.approx(row["value"] / row["peer_value"], rel=0.05)]
        assert f"{row['ratio']:.2f}" in out
    cpu = {
        row["work"].rpartition(" of ")[2]: row["value"] for row in rows if "CPU of" in row["work"]
    }
    assert {"access", "business", "provider", "primary", "standby", "all"} <= set(cpu)
    assert cpu["business"] > 0


def test_an_answer_of_another_kind_or_too_few_requests_are_no_measurement() -> None:
    answers = [b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n"] * 2
    answers.append(b"HTTP/1.1 409 Conflict\r\ncontent-length: 0\r\n\r\n")
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            for answer in answers:
                connection.recv(4096)
                connection.sendall(answer)
            again, _ = listener.accept()
            again.close()

    server = threading.Thread(target=serve)
    server.start()
    host = f"127.0.0.1:{listener.getsockname()[1]}"
    requests = [post_bytes(host, "/orders", b"{}", [], close=False)] * 3
    loop = Posts(f"http://{host}", 1, requests, close=False)
    with pytest.raises(Spent):
        loop.run(5.0)
    server.join()
    listener.close()
    assert loop.errors == {"not 201: HTTP/1.1 409": 1}


@pytest.mark.parametrize(
    "option", [("--only", "nothing"), ("--rounds", "0"), ("--setting", "MEMORY=1")]
)
def test_an_option_that_makes_no_sense_is_refused(
    option: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        read_options(option)
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_quick_measures_less_but_does_what_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    thorough = read_options(())
    monkeypatch.setenv("QUICK", "1")
    quick = read_options(("--rounds", "3"))
    assert quick.rounds == 3
    assert quick.seconds < thorough.seconds
