"""What a request's head has to be before it is read any further: framing, Host, target.

The parser refuses most of what is malformed; these are the rules it leaves to its caller.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

import httptools

from services.access.routes import METHODS as METHOD_NAMES
from services.problems import InvalidRequest, MethodNotAllowed, PayloadTooLarge, Problem

METHODS: Final = frozenset(name.encode() for name in METHOD_NAMES)
HOST: Final = re.compile(rb"(?:[A-Za-z0-9._~-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
HOSTS_KEPT: Final = 256  # a shop has a few names; what scanners send must not grow this


class Refused(Exception):
    """The request gets this problem, and its connection ends: what follows can not be trusted."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


_good_hosts: set[bytes] = set()


def check_host(value: bytes) -> None:
    """Refused unless it is a host name or address, with a port or without."""
    if value in _good_hosts:
        return
    if HOST.fullmatch(value) is None:
        raise Refused(wrong_header("host", "is not a host name"))
    if len(_good_hosts) < HOSTS_KEPT:
        _good_hosts.add(value)


def is_good_host(value: bytes | None) -> bool:
    """Whether it is one that was checked before; False for any that was not."""
    return value in _good_hosts


def require_one_host(hosts: int, version: str, *, chunked: bool) -> None:
    """Refused for another version of HTTP, for what that version has not, and without a Host."""
    if version != "1.1":
        if version != "1.0":
            raise Refused(InvalidRequest("This server speaks HTTP/1.1 and HTTP/1.0."))
        if chunked:
            raise Refused(wrong_header("transfer-encoding", "is not of HTTP/1.0"))
        if hosts == 0:
            return
    if hosts != 1:
        raise Refused(wrong_header("host", "has to be there once"))


def length_of(value: bytes, *, limit_bytes: int) -> int:
    """A Content-Length, which the parser has found to be digits."""
    length = int(value)
    if length > limit_bytes:
        raise Refused(too_long(limit_bytes))
    return length


def coding_is_chunked(value: bytes) -> None:
    if value.lower() != b"chunked":
        raise Refused(wrong_header("transfer-encoding", "has to be chunked"))


def method_not_served(method: bytes) -> Problem:
    allow = {"allow": ", ".join(METHOD_NAMES)}
    return MethodNotAllowed(f"{method.decode()} is not served.", headers=allow)


def plain_target(method: bytes, target: bytes) -> tuple[bytes, bytes | None]:
    """Path and query in origin form, and the authority if the target was in absolute form."""
    target, authority = _origin_form(method, target)
    path_of(target)
    return target, authority


def _origin_form(method: bytes, target: bytes) -> tuple[bytes, bytes | None]:
    if b"#" in target:
        raise Refused(InvalidRequest("The address has a fragment."))
    if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS"):
        return target, None
    try:
        parts = httptools.parse_url(target)
    except httptools.HttpParserInvalidURLError:
        raise Refused(InvalidRequest("The address is not a URL.")) from None
    authority = re.split(rb"[/?]", target.partition(b"//")[2], maxsplit=1)[0]
    if (parts.schema or b"").lower() not in (b"http", b"https") or HOST.fullmatch(
        authority
    ) is None:
        raise Refused(InvalidRequest("The address is not one of this server."))
    return (parts.path or b"/") + (b"?" + parts.query if parts.query else b""), authority


def path_of(target: bytes) -> str:
    """The decoded path, as business will read it."""
    raw = target.partition(b"?")[0].decode("ascii")
    if "%" not in raw:
        return raw
    path = unquote(raw)
    if CONTROL.search(path) is not None:
        raise Refused(InvalidRequest("The path has control characters."))
    return path


def wrong_header(name: str, detail: str) -> Problem:
    return InvalidRequest(errors=[{"field": name, "detail": detail}])


def too_long(limit_bytes: int) -> Problem:
    return PayloadTooLarge(f"At most {limit_bytes} bytes.")
