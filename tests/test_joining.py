"""What is written in one turn of the loop is one write, and nothing that was written is lost."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest_asyncio

from services.joining import JoiningTransport

Ends = tuple[JoiningTransport, socket.socket]


@pytest_asyncio.fixture
async def ends() -> AsyncIterator[Ends]:
    """A transport, and the socket where what it writes arrives as it was written."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    theirs.setblocking(False)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
    yield JoiningTransport(transport, loop), theirs
    transport.abort()
    theirs.close()


def arrived(theirs: socket.socket) -> bytes | None:
    """All that has arrived so far; None: nothing, b"": the end."""
    try:
        return theirs.recv(100)
    except BlockingIOError:
        return None


async def test_the_writes_of_a_turn_leave_together_at_its_end(ends: Ends) -> None:
    transport, theirs = ends
    transport.write(b"head ")
    assert arrived(theirs) is None
    transport.write(b"body")
    await asyncio.sleep(0)
    assert arrived(theirs) == b"head body"
    transport.write(b"next")
    await asyncio.sleep(0)
    assert arrived(theirs) == b"next"


async def test_closing_sends_what_was_written(ends: Ends) -> None:
    transport, theirs = ends
    transport.write(b"last")
    transport.close()
    assert arrived(theirs) == b"last"
    assert transport.is_closing()
    await asyncio.sleep(0)
    assert arrived(theirs) == b""


async def test_what_is_whole_leaves_at_once_but_overtakes_nothing(ends: Ends) -> None:
    transport, theirs = ends
    transport.write_at_once(b"first")
    assert arrived(theirs) == b"first"
    transport.write(b"head ")
    transport.write_at_once(b"second")
    assert arrived(theirs) == b"head second"
    await asyncio.sleep(0)
    assert arrived(theirs) is None


async def test_after_an_end_nothing_is_written(ends: Ends) -> None:
    transport, theirs = ends
    transport.write(b"never")
    transport.abort()
    await asyncio.sleep(0)
    transport.write(b"nor this")
    await asyncio.sleep(0)
    assert arrived(theirs) == b""
