"""Pages in process memory, answered from the bytes of a request's head, without routing it again.

What a target asks for is found out once, by its handler, with all the checks it makes. From then on
the target stands for a key of a cache, and whatever that cache holds is the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from starlette.requests import Request

from services.business.answers import JSON, is_known, page_headers
from services.business.requests import MIN_POSITION_HEADER, position_of
from services.consistency import INTERNAL_HEADER
from services.data.cache import Cache, Found
from services.data.pages import Page
from services.deadline import DEADLINE_HEADER

# A catalog of the size that fits MEMORY_BYTES of the cache; a target takes about 600 bytes.
TARGETS_MAX: Final = 10_000
OK: Final = b"HTTP/1.1 200 OK\r\n"
NOT_MODIFIED: Final = b"HTTP/1.1 304 Not Modified\r\n"
METHODS: Final = (b"GET", b"HEAD")
MIN_POSITION: Final = MIN_POSITION_HEADER.encode()
CONSISTENCY: Final = INTERNAL_HEADER.encode()
DEADLINE: Final = DEADLINE_HEADER.encode()

Fields = Mapping[bytes, bytes]


class Target:
    """What is asked for: a key of a cache, and how its pages may be held by others."""

    __slots__ = ("_etag", "_heads", "_position", "cache", "cache_control", "key")

    def __init__(self, cache: Cache[Page], key: str, cache_control: str) -> None:
        self.cache, self.key, self.cache_control = cache, key, cache_control
        self._etag, self._position, self._heads = "", 0, (b"", b"")

    def heads(self, found: Found[Page]) -> tuple[bytes, bytes]:
        """The header lines of a 304 and of a 200 with this page, rendered once.

        The page itself is not kept here: it goes when its cache lets go of it.
        """
        page = found.value
        if found.position != self._position or page.etag != self._etag:
            headers = page_headers(found, self.cache_control)
            known = _lines(headers)
            length = {"content-length": str(len(page.body)), "content-type": JSON}
            self._etag, self._position = page.etag, found.position
            self._heads = (known + b"\r\n", known + _lines(length) + b"\r\n")
        return self._heads


class HeldPages:
    """The targets that were answered lately, and by what."""

    def __init__(self) -> None:
        self.answered_total = 0
        self._targets: dict[bytes, Target] = {}
        self._closed = False

    def close(self) -> None:
        """Answer nothing any more."""
        self._closed = True

    def learn(self, request: Request, cache: Cache[Page], key: str, cache_control: str) -> None:
        """This request was good, and its target always asks `cache` for `key`."""
        path, query = request.scope.get("raw_path"), request.scope["query_string"]
        if path is None:
            return
        target = path + b"?" + query if query else path
        if target not in self._targets:
            if len(self._targets) >= TARGETS_MAX:
                del self._targets[next(iter(self._targets))]  # the oldest
            self._targets[target] = Target(cache, key, cache_control)

    def answer(self, method: bytes, target: bytes, fields: Fields, first: bytes) -> bytes | None:
        """The whole answer to a request that the gate has let in; None: it has to be routed.

        first: the header lines of the server itself.
        """
        known = self.find(method, target)
        if known is None:
            return None
        found = self.look_up(known, fields)
        if found is None:
            return None
        self.answered_total += 1
        return self.render(method, known, found, fields, first)

    def find(self, method: bytes, target: bytes) -> Target | None:
        if self._closed or method not in METHODS:
            return None
        return self._targets.get(target)

    def look_up(self, known: Target, fields: Fields) -> Found[Page] | None:
        """The page, if it is held and may be given to this request."""
        if not fields.get(DEADLINE, b"1").strip(b"0"):
            return None  # no time is left: the handler says so
        if CONSISTENCY in fields:
            return None  # positions compare within one timeline only: the cache knows which
        if MIN_POSITION not in fields:
            return known.cache.held(known.key)
        needed = position_of(fields[MIN_POSITION].decode("latin-1"))
        return None if needed is None else known.cache.held(known.key, needed)

    def render(
        self, method: bytes, known: Target, found: Found[Page], fields: Fields, first: bytes
    ) -> bytes:
        """The bytes that cached_page and the server would send."""
        (not_modified, whole), page = known.heads(found), found.value
        if_none_match = fields.get(b"if-none-match")
        if if_none_match is not None and is_known(if_none_match.decode("latin-1"), page.etag):
            return b"".join((NOT_MODIFIED, first, not_modified))
        return b"".join((OK, first, whole, b"" if method == b"HEAD" else page.body))


def _lines(headers: Mapping[str, str]) -> bytes:
    return "".join([f"{name}: {value}\r\n" for name, value in headers.items()]).encode("latin-1")
