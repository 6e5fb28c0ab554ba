"""Beginning a session: a new token each time, and the guest's things come along."""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from services.business.answers import document
from services.business.guests import no_guest_cookie
from services.business.requests import find_guest_token, find_session
from services.business.schemas import LINES_MAX, QUANTITY_MAX, NewSessionDocument
from services.business.shop import Shop
from services.data import guest_links, sessions
from services.data.accounts import Account
from services.data.outbox import insert_tags
from services.data.session import current_session
from services.data.sources import Transaction

TOKEN_BYTES: Final = 32  # 256 random bits; ASVS V7.2.3 asks for 128
LIFETIME: Final = timedelta(days=30)
SESSIONS_MAX: Final = 50  # of an account: more than anybody has devices
USER_AGENT_MAX: Final = 200


class Shown(NamedTuple):
    """What a request that begins a session shows beside its credentials."""

    user_agent: str
    session_id: UUID | None
    guest_sha256: bytes | None


class Begun(NamedTuple):
    """A session, and its token. cart_id: of the account's open cart, if it has one."""

    account: Account
    token: str
    session_id: UUID
    expires_at: datetime
    cart_id: UUID | None
    had_guest: bool


def read_shown(request: Request) -> Shown:
    user_agent = request.headers.get("user-agent", "")[:USER_AGENT_MAX]
    return Shown(user_agent, find_session(request), find_guest_token(request))


def sha256_of(token: str) -> bytes:
    """What is stored of a token."""
    return hashlib.sha256(token.encode()).digest()


async def begin_session(tx: Transaction, account: Account, shown: Shown) -> Begun:
    """A session of an account that is locked; the one that was shown before is over.

    The guest whose cookie was shown is the account's from now on, and its cart is in the account's
    open cart.
    """
    if shown.session_id is not None:
        await sessions.end_shown_session(tx, shown.session_id)
    token = secrets.token_urlsafe(TOKEN_BYTES)
    row = await sessions.insert_session(
        tx,
        sha256_of(token),
        account.customer_id,
        user_agent=shown.user_agent,
        lifetime=LIFETIME,
        at_most=SESSIONS_MAX,
    )
    guest_id = None
    if shown.guest_sha256 is not None:
        guest_id = await guest_links.link_guest(tx, shown.guest_sha256, account.customer_id)
    cart_id = await guest_links.merge_carts(
        tx, guest_id, account.customer_id, lines_max=LINES_MAX, quantity_max=QUANTITY_MAX
    )
    if guest_id is not None:
        await insert_tags(tx, [sessions.tag_of(guest_id)])
    return Begun(
        account, token, row.session_id, row.expires_at, cart_id, shown.guest_sha256 is not None
    )


def session_answer(shop: Shop, begun: Begun) -> Response:
    """201 with the token in the body and in a cookie."""
    session = current_session.get()
    if session is not None:
        session.customer_id = begun.account.customer_id
    body = NewSessionDocument(
        session_id=begun.session_id,
        token=begun.token,
        customer_id=begun.account.customer_id,
        role=begun.account.role,
        expires_at=begun.expires_at,
        cart_id=begun.cart_id,
    )
    response = document(body, 201, {"location": "/sessions/current"})
    max_age_s = int(LIFETIME.total_seconds())
    response.headers.append("set-cookie", session_cookie(shop, begun.token, max_age_s))
    if begun.had_guest:
        response.headers.append("set-cookie", no_guest_cookie(shop))
    return response


def session_cookie(shop: Shop, token: str, max_age_s: int) -> str:
    """The Set-Cookie of a session; with max_age_s 0 of one that is over.

    By its prefix (RFC 6265bis 4.1.3) browsers believe it from this host alone, by HTTPS, for all
    paths; without HTTPS, as on one's own machine, there is no such name.
    """
    name, secure = (
        ("__Host-tercet_session", "; Secure")
        if shop.settings.cookie_secure
        else (
            "tercet_session",
            "",
        )
    )
    return f"{name}={token}; Path=/; Max-Age={max_age_s}; HttpOnly; SameSite=Lax{secure}"
