"""What a request's head has to be before it is read any further: framing, Host, target.

The parser refuses most of what is malformed; these are the rules it leaves to its caller.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

import httptools

from services.access.routes import METHODS
from services.keepalive import Headers
from services.problems import InvalidRequest, MethodNotAllowed, PayloadTooLarge, Problem

HOST: Final = re.compile(rb"(?:[A-Za-z0-9._~-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


class Refused(Exception):
    """The request gets this problem, and its connection ends: what follows can not be trusted."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


def check_framing(headers: Headers, version: str, *, body_limit_bytes: int) -> bool:
    """Whether a body follows; Refused where it is unclear, too long, or the Host is not one."""
    if version not in ("1.1", "1.0"):
        raise Refused(InvalidRequest("This server speaks HTTP/1.1 and HTTP/1.0."))
    hosts = 0
    has_body = False
    for name, value in headers:
        if name == b"host":
            hosts += 1
            if HOST.fullmatch(value) is None:
                raise Refused(wrong_header("host", "is not a host name"))
        elif name == b"content-length":
            has_body = int(value) > 0
            if int(value) > body_limit_bytes:
                raise Refused(too_long(body_limit_bytes))
        elif name == b"transfer-encoding":
            has_body = True
            if value.lower() != b"chunked" or version == "1.0":
                raise Refused(wrong_header("transfer-encoding", "has to be chunked"))
    if hosts > 1 or (hosts == 0 and version == "1.1"):
        raise Refused(wrong_header("host", "has to be there once"))
    return has_body


def target_of(method: str, target: bytes) -> tuple[bytes, bytes | None]:
    """Path and query in origin form, and the authority if the target was in absolute form."""
    if method not in METHODS:
        allow = {"allow": ", ".join(METHODS)}
        raise Refused(MethodNotAllowed(f"{method} is not served.", headers=allow))
    if b"#" in target:
        raise Refused(InvalidRequest("The address has a fragment."))
    if target.startswith(b"/") or (target == b"*" and method == "OPTIONS"):
        return target, None
    try:
        parts = httptools.parse_url(target)
    except httptools.HttpParserInvalidURLError:
        raise Refused(InvalidRequest("The address is not a URL.")) from None
    authority = re.split(rb"[/?]", target.partition(b"//")[2], maxsplit=1)[0]
    if parts.schema.lower() not in (b"http", b"https") or HOST.fullmatch(authority) is None:
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
