"""What a request shows of who sends it: a bearer token, a session's cookie or a guest's."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from services.problems import InvalidRequest, Unauthenticated

GUEST_COOKIE: Final = b"tercet_customer"
TOKEN: Final = re.compile(rb"[A-Za-z0-9_-]{43}")  # 32 random bytes in base64url


class Claim(NamedTuple):
    """The token that a request shows, if any, and whether as a bearer token or in a cookie."""

    token: bytes | None
    bearer: bool


NOBODY: Final = Claim(None, bearer=False)


def session_cookie(*, secure: bool) -> bytes:
    """The name of a session's cookie.

    A browser takes one of the prefix __Host- only from this host itself, by HTTPS and for all
    paths, so no neighbour of the domain can plant one (RFC 6265bis 4.1.3.2).
    """
    return b"__Host-tercet_session" if secure else b"tercet_session"


def claim_of(authorizations: Sequence[bytes], cookies: Sequence[bytes], session: bytes) -> Claim:
    """Who the values of Authorization and Cookie say that a request comes from.

    session: the name of its cookie. A bearer token comes before a session, a session before a
    guest: who has logged in on a machine is not the guest that was there before. Unauthenticated
    for a scheme other than Bearer, since there is none here.
    """
    if not authorizations:
        if not cookies:
            return NOBODY
        token = cookie_value(cookies, session)
        return Claim(cookie_value(cookies, GUEST_COOKIE) if token is None else token, bearer=False)
    if len(authorizations) > 1:
        raise InvalidRequest(
            errors=[{"field": "authorization", "detail": "is there more than once"}]
        )
    scheme, _, token = authorizations[0].partition(b" ")
    if scheme.lower() != b"bearer":
        raise Unauthenticated
    return Claim(token.strip(), bearer=True)


def guest_digest(cookies: Sequence[bytes]) -> str | None:
    """The SHA-256 of the guest's token in the cookies, in hex; None where there is none."""
    token = cookie_value(cookies, GUEST_COOKIE)
    if token is None or TOKEN.fullmatch(token) is None:
        return None
    return hashlib.sha256(token).hexdigest()


def cookie_value(cookies: Sequence[bytes], name: bytes) -> bytes | None:
    """The cookie of a name, the first one where there are several."""
    for value in cookies:
        if name in value:
            for pair in value.split(b";"):
                key, _, token = pair.strip().partition(b"=")
                if key == name:
                    return token.strip(b'"')
    return None
