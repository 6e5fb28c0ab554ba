"""Fetching one page until its answer is as new as the purges that are known."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from services.access.page import Content, Page, content_of, revalidated
from services.access.purges import Purges
from services.deadline import Deadline
from services.exchange import Headers, Response
from services.problems import BadGateway

# Target, headers beside the usual ones, deadline; raises services.problems.Problem.
Fetch = Callable[[bytes, Headers, Deadline], Awaitable[Response]]

FETCHES: Final = 4  # where purges come faster than fetches end, the answer is given and not held


class Fetched(NamedTuple):
    """What may be given to everybody who waits, and held unless purges overtook it."""

    content: Content
    began_at: float  # monotonic
    confirmed: bool  # by a 304: the body is the one that was held
    overtaken: bool


async def fetch_new(
    fetch: Fetch, purges: Purges, target: bytes, held: Page | None, deadline: Deadline
) -> Fetched | Response:
    """Fetch a page; a Response instead is for one caller, and must not be held.

    held: what is known of the page; it is confirmed by its ETag where business can.
    """
    needed = purges.needed(held.tags) if held is not None else 0
    fetched = None
    for _ in range(FETCHES):
        began_at, number = time.monotonic(), purges.number
        answer = await fetch(target, _extra(held, needed), deadline)
        confirmed = answer.status == 304
        if not confirmed:
            content = content_of(answer)
            if content is None:
                return answer
        else:
            content = revalidated(held, answer) if held is not None else None
            if content is None:
                held = None  # not ours, or not to be held any more: the next fetch is for all of it
                continue
        fetched = Fetched(content, began_at, confirmed, overtaken=True)
        if not purges.behind(content.tags, content.position, number):
            return fetched._replace(overtaken=False)
        needed = max(needed, purges.needed(content.tags))
    if fetched is None:
        raise BadGateway("The page was confirmed by the wrong name.")
    return fetched


def _extra(held: Page | None, needed: int) -> Headers:
    extra = []
    if held is not None and held.etag and held.status == 200:
        extra.append((b"if-none-match", held.etag))
    if needed:
        extra.append((b"x-internal-min-position", b"%d" % needed))
    return extra
