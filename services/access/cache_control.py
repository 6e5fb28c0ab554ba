"""What business says about holding an answer: Cache-Control, Age and Vary, read as RFC 9111 does.

Where a value is malformed or contradicts another one, the reading that holds less wins.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from services.keepalive import Headers

# RFC 9111 1.2.2: a number too large to be held counts as this one (68 years).
DELTA_MAX_S: Final = 2**31
# Heuristically cacheable, without bodies that depend on anything but the target; redirects and
# the rest are rare and go to business.
STATUSES: Final = frozenset((200, 404, 410))

_MEMBER: Final = re.compile(
    rb"[\t ]*([!#$%&'*+.^_`|~0-9A-Za-z-]*)"  # name
    rb'(?:=(?:"((?:[^"\\]|\\.)*)"|([^",]*)))?'  # its argument, quoted or not
    rb"([^,]*)(?:,|\Z)",  # what should not be there
    re.DOTALL,
)
_ESCAPED: Final = re.compile(rb"\\(.)", re.DOTALL)
_DIGITS: Final = re.compile(rb"[0-9]+")
_TIMES: Final = frozenset((b"s-maxage", b"stale-while-revalidate", b"stale-if-error"))
# Whatever stands behind these names, they are honoured; all others have to be well formed.
_STRICT: Final = frozenset(
    (b"no-store", b"no-cache", b"private", b"must-revalidate", b"proxy-revalidate")
)


class Directives(NamedTuple):
    """Cache-Control of an answer. Times are in seconds; None where there is no such directive.

    A malformed or contradictory time is 0 and `broken` is set if it was that of s-maxage: RFC 9111
    4.2.1 asks to take such an answer as stale.
    """

    public: bool = False
    no_store: bool = False
    private: bool = False
    no_cache: bool = False
    must_revalidate: bool = False  # or proxy-revalidate, which is the same for us
    s_maxage: int | None = None
    broken: bool = False
    stale_while_revalidate: int = 0
    stale_if_error: int = 0


class Terms(NamedTuple):
    """How long an answer may be used, in seconds from the moment its fetch began."""

    fresh_s: int  # may be negative: it was stale on arrival
    stale_s: int  # beyond that while one request refreshes it
    error_s: int  # beyond that while business fails
    age_s: int  # that it already had


def read_cache_control(values: Iterable[bytes]) -> Directives:
    """The directives of all Cache-Control lines of one answer."""
    names: set[bytes] = set()
    times: dict[bytes, int | None] = {}  # None: malformed, or said twice differently
    for name, argument, odd in _members(b",".join(values)):
        if odd and name not in _STRICT and name not in _TIMES:
            continue
        if name in _TIMES:
            seconds = None if odd else _delta(argument)
            times[name] = seconds if times.get(name, seconds) == seconds else None
        names.add(name)
    has_s_maxage = b"s-maxage" in times
    s_maxage = times.get(b"s-maxage")
    return Directives(
        public=b"public" in names,
        no_store=b"no-store" in names,
        private=b"private" in names,
        no_cache=b"no-cache" in names,
        must_revalidate=b"must-revalidate" in names or b"proxy-revalidate" in names,
        s_maxage=(s_maxage or 0) if has_s_maxage else None,
        broken=has_s_maxage and s_maxage is None,
        stale_while_revalidate=times.get(b"stale-while-revalidate") or 0,
        stale_if_error=times.get(b"stale-if-error") or 0,
    )


def terms_of(status: int, headers: Headers) -> Terms | None:
    """On which terms an answer may be held by a shared cache; None: on none.

    Only what says `public` and `s-maxage` is held. no-cache could be held to be revalidated each
    time, which would save business nothing.
    """
    if status not in STATUSES or not _same_for_all(headers):
        return None
    said = read_cache_control([value for name, value in headers if name == b"cache-control"])
    if said.no_store or said.private or said.no_cache or not said.public or said.s_maxage is None:
        return None
    age_s = read_age([value for name, value in headers if name == b"age"])
    usable_stale = not said.must_revalidate
    return Terms(
        fresh_s=said.s_maxage - age_s,
        stale_s=said.stale_while_revalidate if usable_stale and not said.broken else 0,
        error_s=said.stale_if_error if usable_stale else 0,
        age_s=age_s,
    )


def read_age(values: list[bytes]) -> int:
    """RFC 9111 5.1: of several the first, and one that is no number is ignored."""
    if not values:
        return 0
    first = values[0].split(b",", 1)[0].strip(b" \t")
    return _delta(first) or 0


def _same_for_all(headers: Headers) -> bool:
    for name, value in headers:
        if name == b"set-cookie":
            return False
        if name == b"vary" and any(
            field.strip(b" \t").lower() not in (b"", b"accept-encoding")
            for field in value.split(b",")
        ):
            return False
        # Fetches ask for identity; encodings are made here.
        if name == b"content-encoding" and value.strip(b" \t").lower() not in (b"", b"identity"):
            return False
    return True


def _members(text: bytes) -> Iterable[tuple[bytes, bytes, bool]]:
    """Name in lower case, argument, and whether the member is not well formed."""
    at = 0
    while at < len(text):
        found = _MEMBER.match(text, at)
        if found is None:  # can not be: every part may be empty
            return
        name, quoted, plain, rest = found.groups()
        at = found.end()
        if name:
            argument = _ESCAPED.sub(rb"\1", quoted) if quoted is not None else plain or b""
            yield name.lower(), argument.rstrip(b" \t"), bool(rest.strip(b" \t"))


def _delta(text: bytes) -> int | None:
    """delta-seconds; None for what is not one."""
    if _DIGITS.fullmatch(text) is None:
        return None
    # Ten digits are always above DELTA_MAX_S or fit; int() of a million digits takes seconds.
    digits = text.lstrip(b"0")
    return DELTA_MAX_S if len(digits) > 10 else min(int(digits or b"0"), DELTA_MAX_S)
