"""Whether business saw exactly the requests that are in a client's bytes, by the strict reading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.access import strict
from tests.access.answers import Reply, replies
from tests.access.echo import ITS_OWN, NUMBER, Echo, Got
from tests.access.one_loop import OneLoop, turn


@dataclass(frozen=True)
class Said:
    """One conversation: what the client got, what business got and what it had to read."""

    replies: list[Reply]
    left: bytes  # after the last answer
    over: bool  # it came to an end in time
    got: list[Got]
    overheard: list[bytes]

    @property
    def refused(self) -> bool:
        """Whether the last answer says that there was no request to answer."""
        if not self.replies:
            return False
        last = self.replies[-1]
        return (
            last.closes and last.status >= 400 and not last.values(NUMBER) and not self._not_found
        )

    @property
    def _not_found(self) -> bool:
        """A path that is nobody's, asked for as the last on the connection: that is an answer."""
        return self.replies[-1].status == 404


def converse(lab: OneLoop, business: Echo, data: bytes, pieces: Sequence[bytes]) -> Said:
    """Send the data in these pieces, until the server ends it or has no more to answer."""
    business.forget()
    requests, end = strict.read(data)
    heads = [place for place, request in enumerate(requests) if request.method == b"HEAD"]

    async def conversation() -> tuple[bytes, bool]:
        wire = await lab.connect()

        def finished() -> bool:
            if wire.ended or end in ("closed", "malformed"):
                return wire.ended
            return len(replies(bytes(wire.received), heads)[0]) >= len(requests)

        try:
            await wire.send(pieces)
            over = await wire.until(finished)
            for _ in range(3):
                await turn()  # for what should not come any more
            return bytes(wire.received), over
        finally:
            wire.transport.abort()

    received, over = lab.do(conversation())
    return Said(*replies(received, heads), over, *business.forget())


def disagreement(data: bytes, said: Said) -> str | None:
    """How business' requests or the answers differ from what is in the data; None if not."""
    requests, _ = strict.read(data)
    if said.left:
        return f"after the last answer: {said.left[:100]!r}"
    served = len(said.replies) - said.refused
    if served > len(requests):
        return f"{served} answers to {len(requests)} requests"
    named = [reply.values(NUMBER) for reply in said.replies]
    if [name for name in named if name] != [[b"%d" % number] for number in range(len(said.got))]:
        return f"business' answers are {named} of {len(said.got)}"
    answered = [place for place, name in enumerate(named) if name]
    for place, one in zip(answered, said.got, strict=True):
        if not _same(one, requests[place]):
            return f"{one} is not {requests[place]}"
    return _rewritten(said)


def _same(got: Got, request: strict.Request) -> bool:
    """An empty query is not told from none."""
    return (got.method, got.body, got.target.partition(b"?")[::2]) == (
        request.method,
        request.body,
        request.target.partition(b"?")[::2],
    )


def _rewritten(said: Said) -> str | None:
    """What access wrote to business is, strictly read, just what business took it for."""
    read = [strict.read(data) for data in said.overheard]
    if any(end != "clean" for _, end in read):
        return f"access wrote {said.overheard}"
    written = [one for requests, _ in read for one in requests if one.target not in ITS_OWN]
    if len(written) != len(said.got):
        return f"access wrote {len(written)} requests, business took {len(said.got)}"
    return None
