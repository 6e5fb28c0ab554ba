"""Requests as bytes on a socket: what a client library would refuse to send, or would repair."""

from __future__ import annotations

import json
import re
import socket
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import Any, Final
from urllib.parse import urlsplit

TIMEOUT_S: Final = 10.0
PROBLEM_JSON: Final = "application/problem+json"
# Whose words an answer must not speak: code, SQL, libraries, servers, addresses, versions.
TELLTALE: Final = re.compile(
    r"traceback|file \"|\.py\b|line \d+, in|exception|asyncpg|postgres|valkey|redis|uvicorn"
    r"|starlette|pydantic|httptools|orjson|python|select .+ from|insert into|errno|127\.0\.0\.1"
    r"|localhost|orderrequest|orderlinerequest|paymentrequest|stockmovementrequest"
    r"|\b\d+\.\d+\.\d+\b",
    re.IGNORECASE,
)
TELLTALE_HEADERS: Final = frozenset(
    ("server", "via", "x-powered-by", "x-internal-secret", "x-customer-id", "x-deadline-ms")
)


@dataclass(frozen=True)
class Answer:
    """What came back; header names are lower-case."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for known, value in self.headers if known == name), None)

    @property
    def media_type(self) -> str:
        return (self.header("content-type") or "").partition(";")[0]

    @property
    def document(self) -> dict[str, Any]:
        document = json.loads(self.body)
        assert isinstance(document, dict)
        return document

    @property
    def fields(self) -> list[str]:
        """The fields that a problem names."""
        return [error["field"] for error in self.document.get("errors", [])]


def request(
    method: str, target: str, *lines: str, body: bytes = b"", host: str = "shop.example"
) -> bytes:
    """A request with just these header lines, a Host, a length where one is due, and close."""
    head = [f"{method} {target} HTTP/1.1", f"host: {host}", "connection: close", *lines]
    if body or method in ("POST", "PUT", "PATCH"):
        head.append(f"content-length: {len(body)}")
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


def exchange(url: str, data: bytes) -> Answer:
    """Send bytes on a connection of their own and read one answer."""
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port), TIMEOUT_S) as connection:
        connection.sendall(data)
        response = HTTPResponse(connection, method=data.partition(b" ")[0].decode("latin-1"))
        response.begin()
        headers = [(name.lower(), value) for name, value in response.getheaders()]
        return Answer(response.status, headers, response.read())


def assert_tells_nothing(answer: Answer) -> None:
    """Nothing of a stack trace, of SQL, of a library, host or version in body or headers."""
    names = {name for name, _ in answer.headers}
    assert not names & TELLTALE_HEADERS
    said = "\n".join(f"{name}: {value}" for name, value in answer.headers if name != "date")
    for text in (said, answer.body.decode("utf-8", "replace")):
        found = TELLTALE.search(text)
        assert found is None, f"{found.group()!r} in {text[:500]}"


def assert_is_problem(answer: Answer, status: int) -> None:
    """A problem of RFC 9457 with this status, which no cache keeps and which tells nothing."""
    assert answer.status == status, answer.body[:500]
    assert answer.media_type == PROBLEM_JSON
    assert answer.header("cache-control") == "no-store"
    document = answer.document
    assert document["status"] == status
    assert document["type"].startswith("/problems/")
    assert document["request_id"] == answer.header("x-request-id")
    assert_tells_nothing(answer)
