"""The closed loop and the idle connections, against a real server."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from loadtests.peers import PAGE, PYTHON
from loadtests.programs import BrokenRunError, Program, output_of, running

CONNECTIONS = 8


@pytest_asyncio.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Program]:
    folder = tmp_path_factory.mktemp("stand-in")
    async with running(await PYTHON.launch(folder), None, folder / "log") as program:
        yield program


async def closed(server: Program, path: str, *options: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "loadtests.closed", "--url", server.url(path)]
    command += ["--connections", str(CONNECTIONS), "--seconds", "0.3", *options]
    outcome: dict[str, Any] = json.loads(await output_of(command, None))
    return outcome


async def test_kept_connections_are_used_again(server: Program) -> None:
    outcome = await closed(server, "/")
    assert outcome["errors"] == {}
    assert outcome["answers"] > 10 * CONNECTIONS
    assert 0 < outcome["p50_ms"] <= outcome["p99_ms"]
    assert 0 < outcome["p50_ms"] <= outcome["p90_ms"] <= outcome["p99_ms"] <= outcome["p999_ms"]
    assert 0 < outcome["mean_ms"] < outcome["max_ms"]
    assert outcome["connections_made"] == CONNECTIONS
    assert outcome["connect_mean_ms"] > 0
    assert outcome["percentiles"][-1][0] == 100
    assert 0.3 <= outcome["seconds"] < 1


async def test_short_connections_are_made_anew_for_each_request(server: Program) -> None:
    outcome = await closed(server, "/products/red-shirt", "--close")
    assert outcome["errors"] == {}
    assert outcome["answers"] > CONNECTIONS
    assert 0 < outcome["connect_p99_ms"] <= outcome["p99_ms"]
    assert outcome["connections_made"] >= outcome["answers"]
    assert outcome["received_bytes"] > outcome["answers"] * len(PAGE)


@pytest.mark.parametrize("options", [("--close",), ("--close", "--silently")])
async def test_the_server_is_told_to_close_unless_this_side_does_it_silently(
    options: tuple[str, ...],
) -> None:
    heads: list[bytes] = []
    closed_first: list[bool] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        closed_first.append(await reader.read() == b"")  # until the client has closed
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        command = [sys.executable, "-m", "loadtests.closed", "--url", f"http://127.0.0.1:{port}/"]
        command += ["--connections", "2", "--seconds", "0.2", *options]
        outcome = json.loads(await output_of(command, None))
    assert outcome["errors"] == {}
    assert outcome["connections_made"] >= outcome["answers"] > 2
    assert {b"Connection: close" in head for head in heads} == {"--silently" not in options}
    assert all(closed_first)


async def test_targets_of_a_file_are_asked_for_in_turn(server: Program, tmp_path: Path) -> None:
    listed = tmp_path / "targets"
    listed.write_text("/\n/products/red-shirt\n/products/red-shirt/stock\n")
    outcome = await closed(server, "/nowhere", "--targets", str(listed), "--header", "x-a: b")
    assert outcome["errors"] == {}
    assert outcome["answers"] > 10 * CONNECTIONS
    listed.write_text("/\n/nowhere\n")
    try:
        said = str((await closed(server, "/", "--targets", str(listed)))["errors"])
    except BrokenRunError as error:  # a quick machine has a thousand failures by then
        said = str(error)
    assert "not 200" in said


async def test_a_server_that_only_fails_is_no_server_to_measure(server: Program) -> None:
    with pytest.raises(BrokenRunError, match="not 200"):
        await closed(server, "/nowhere", "--seconds", "30")  # a thousand failures end it


async def idle(server: Program) -> asyncio.subprocess.Process:
    holder = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtests.idle", "--url", server.url()),
        *("--connections", "20"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert await holder.stdout.readline() == b"open\n"
    return holder


async def test_idle_connections_stay_open_until_they_are_let_go(server: Program) -> None:
    holder = await idle(server)
    assert (await holder.communicate(b""))[0] == b"20\n"


async def test_idle_connections_that_the_server_closed_are_not_counted(tmp_path: Path) -> None:
    async with running(await PYTHON.launch(tmp_path), None, tmp_path / "log") as server:
        holder = await idle(server)
    assert (await holder.communicate(b""))[0] == b"0\n"
