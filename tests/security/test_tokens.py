"""S17: tokens are opaque. Whatever looks like one and was not given out is refused everywhere."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.running_stack import RunningStack
from tests.security.guests import Goods, Guest
from tests.security.matrix import LET_IN, ROUTES, Asked
from tests.security.wire import exchange, request

ID: Final = "01890000-0000-7000-8000-000000000000"
# Routes that ask who it is. Others do not look at tokens at all.
GUARDED: Final = [asked for asked in ROUTES if None not in LET_IN[asked.guard]]


def encoded(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(head: dict[str, object], claims: dict[str, object], key: bytes) -> str:
    """A JWT by RFC 7519, signed by HMAC whatever its head says."""
    text = f"{encoded(head)}.{encoded(claims)}"
    return f"{text}.{encoded(hmac.digest(key, text.encode(), 'sha256'))}"


def forged(guest: Guest) -> Iterator[str]:
    """Values of Authorization after "Bearer ", as text in latin-1."""
    now = int(time.time())
    claims: dict[str, object] = {"sub": ID, "role": "operator", "iat": now, "exp": now + 3600}
    none = {"alg": "none", "typ": "JWT"}
    for algorithm in ("none", "None", "NONE", "nOnE"):
        yield f"{encoded({'alg': algorithm})}.{encoded(claims)}."
    yield f"{encoded(none)}.{encoded(claims)}"
    for key in (b"", b"secret", guest.token.encode(), b"\x00" * 32):
        yield signed({"alg": "HS256", "typ": "JWT"}, claims, key)
    for more in (
        {"kid": "../../../../dev/null"},
        {"kid": "x' union select 'secret"},
        {"jwk": {"kty": "oct", "k": encoded(b"secret")}},
        {"jku": "https://evil.example/keys"},
        {"crit": ["exp"]},
    ):
        yield signed({"alg": "HS256", **more}, claims, b"secret")
    for wrong in ({"exp": now - 1}, {"nbf": now + 1}, {"aud": "another"}, {"typ": "at+jwt"}):
        yield signed({"alg": "RS256"}, claims | wrong, b"secret")
    token = guest.token
    yield secrets.token_urlsafe(32)  # of the right form, and nobody's
    yield from (token[:-1], token + "A", token[::-1], token.swapcase(), f"{token}=", f'"{token}"')
    yield from (
        token + token,
        f"{token},{token}",
        f"{token} {token}",
        f"{token}\x00",
        f"\x00{token}",
    )
    yield from (
        f"{token}\x7f",
        f"{token}\x1b[0m",
        f"{token}\t{token}",
        f"{token}\xa0",
        f"\xef{token}",
    )
    yield hashlib.sha256(token.encode()).hexdigest()  # what is stored opens nothing
    yield encoded(hashlib.sha256(token.encode()).digest())
    yield from ("", " ", "null", "undefined", "true", "{}", "*", "%00", "admin", "' or '1'='1")
    yield from ("A" * 8000, "A" * 43 + "\u00e9", "\u00ff" * 43, ".".join("AAA"), "-" * 43, "_" * 43)


def asked_with(stack: RunningStack, asked: Asked, line: str) -> int:
    names = dict.fromkeys(asked.parameters, ID)
    target = asked.path.format(**names | {"slug": "x", "provider": "sandbox", "upstream": "x"})
    data = request(asked.method, target, line, "content-type: application/json", body=b"")
    return exchange(stack.url, data).status


@pytest.mark.parametrize("asked", GUARDED, ids=lambda asked: asked.name)
def test_a_forged_token_is_refused(
    asked: Asked, stack: RunningStack, goods: Goods, alice: Guest
) -> None:
    tokens = list(forged(alice))
    # One route is asked with all of them, the others with one in twelve: each takes another way to
    # the one place that knows tokens.
    some = tokens if asked is GUARDED[0] else tokens[GUARDED.index(asked) % 12 :: 12]
    for token in some:
        status = asked_with(stack, asked, f"authorization: Bearer {token}")
        assert status in (400, 401), f"{status} for {token!r}"
        for cookie in ("tercet_session", "tercet_customer"):
            status = asked_with(stack, asked, f"cookie: {cookie}={token}")
            # A cookie may stand in quotes (RFC 6265 4.1.1).
            own = token.strip('"') == alice.token
            assert own or status in (400, 401), f"{status} for the cookie {token!r}"


@pytest.mark.parametrize("scheme", ["Basic", "Digest", "Token", "JWT", "Negotiate", "bearer:", ""])
def test_no_other_scheme_is_known(scheme: str, stack: RunningStack, alice: Guest) -> None:
    for asked in GUARDED[:3]:
        assert asked_with(stack, asked, f"authorization: {scheme} {alice.token}") == 401
