"""Streams with what is one customer's only: twice a second they are asked whose they are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from services.access.identities import Identities, Unasked
from services.access.identity import Identity
from services.access.live_topics import Stream
from services.deadline import Deadline
from services.problems import Overloaded, Problem

CHECK_S: Final = 1.0  # what can not be found out within that is not so


class Owners:
    """The streams that are somebody's, in parts that are looked at by turns.

    disown: called with a stream whose customer is not known any more; its client has to come again.
    """

    def __init__(
        self, identities: Identities, disown: Callable[[Stream], None], *, parts: int
    ) -> None:
        self._identities = identities
        self._disown = disown
        self._parts: list[set[Stream]] = [set() for _ in range(parts)]
        self._asking: set[asyncio.Task[None]] = set()

    def add(self, stream: Stream) -> None:
        self._parts[stream.shard % len(self._parts)].add(stream)

    def discard(self, stream: Stream) -> None:
        self._parts[stream.shard % len(self._parts)].discard(stream)

    def check(self, turn: int) -> None:
        """Look at one part; those of whom business has to be asked are found out about later."""
        for stream in list(self._parts[turn % len(self._parts)]):
            if stream.claim is None:
                continue
            try:
                found = self._identities.known(stream.claim)
            except Problem:
                found = None
            if isinstance(found, Unasked):
                task = asyncio.get_running_loop().create_task(self._ask(stream))
                self._asking.add(task)
                task.add_done_callback(self._asking.discard)
            elif not _is_the_same(found, stream):
                self._disown(stream)

    async def _ask(self, stream: Stream) -> None:
        """Where nobody can be asked, it is not known, and what is private is not told."""
        if stream.claim is None:
            return
        found: Identity | None = None
        try:
            found = await self._identities.identity_of(stream.claim, Deadline.after(CHECK_S))
        except Overloaded:
            # Too many are asked about at once, as where Valkey is away: it is asked again in half a
            # second, and what there is to tell comes by Valkey.
            return
        except Problem:
            pass
        if not _is_the_same(found, stream):
            self._disown(stream)

    async def aclose(self) -> None:
        for task in self._asking:
            task.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)


def _is_the_same(found: Identity | None, stream: Stream) -> bool:
    """Whether it is whose stream it was, with the role and the guests that it had."""
    if found is None or stream.identity is None:
        return False
    return found is stream.identity or found.fields == stream.identity.fields
