"""Sessions: logging in and out, and where else an account is logged in."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from services.business.answers import document
from services.business.logins import (
    Begun,
    Shown,
    begin_session,
    read_shown,
    session_answer,
    session_cookie,
)
from services.business.requests import find_session, read_id, read_json
from services.business.roles import read_account
from services.business.schemas import SessionDocument, SessionListDocument, SessionRequest
from services.business.shop import Shop
from services.business.throttles import admit_try, keys_of, network_of
from services.data import accounts, sessions
from services.data.accounts import Account
from services.data.login_tries import Keys, Try, forget_try, know_network
from services.problems import LoginRefused, NotFound


async def create_session(shop: Shop, request: Request) -> Response:
    """POST /sessions: log in; each login has a new token, and ends the session that it shows."""
    wanted, _ = await read_json(request, SessionRequest)
    begun = await log_in(
        shop, wanted.email, wanted.password, network_of(request), read_shown(request)
    )
    return session_answer(shop, begun)


async def log_in(shop: Shop, email: str, password: str, network: str, shown: Shown) -> Begun:
    """Count the try, compare the password, begin a session.

    An unknown address takes the same work and has the same answer as a wrong password. Raises
    LoginRefused, TooManyRequests, Overloaded.
    """
    email_key = email.lower()
    keys, fresh = keys_of(shop, email_key, network), None
    with shop.passwords.place():
        counted = await admit_try(shop, keys, email_key)
        account = await accounts.select_account(shop.database.primary, email_key)
        known = account.password_hash if account is not None else None
        if not await shop.passwords.matches(known, password) or account is None:
            shop.counts.logins_refused_total += 1
            raise LoginRefused
        if shop.passwords.is_old(account.password_hash):
            fresh = await shop.passwords.hash(password)
    begun = await _begin(shop, account, shown, keys, counted, fresh)
    shop.changed()
    return begun


async def _begin(  # noqa: PLR0917 - the parts of one login
    shop: Shop, seen: Account, shown: Shown, keys: Keys, counted: Try, fresh: str | None
) -> Begun:
    """In one transaction, if the account is still what the password was compared with."""
    async with shop.database.primary.transaction() as tx:
        account = await accounts.lock_account(tx, seen.customer_id)
        if (
            account is None
            or account.disabled_at is not None
            or account.password_changed_at != seen.password_changed_at
        ):
            raise LoginRefused
        if fresh is not None:
            await accounts.update_hash(tx, account.customer_id, fresh)
        begun = await begin_session(tx, account, shown)
        await know_network(tx, account.customer_id, keys.by_network)
        await forget_try(tx, keys, counted.tried_at)
    shop.counts.logins_total += 1
    return begun


async def end_current_session(shop: Shop, request: Request) -> Response:
    """DELETE /sessions/current: log out; the token is refused everywhere within a second."""
    customer_id, session_id = read_account(request), find_session(request)
    if session_id is not None:
        async with shop.database.primary.transaction() as tx:
            await sessions.end_session(tx, session_id, customer_id)
        shop.changed()
    return _gone({"set-cookie": session_cookie(shop, "", 0)})


async def show_sessions(shop: Shop, request: Request) -> Response:
    """GET /sessions: where the account is logged in."""
    customer_id, current = read_account(request), find_session(request)
    rows = await sessions.select_sessions(shop.database.primary, customer_id)
    return document(
        SessionListDocument(
            items=[
                SessionDocument(
                    session_id=row.session_id,
                    current=row.session_id == current,
                    user_agent=row.user_agent,
                    created_at=row.created_at,
                    last_used_at=row.last_used_at,
                    expires_at=row.expires_at,
                )
                for row in rows
            ]
        )
    )


async def end_session(shop: Shop, request: Request) -> Response:
    """DELETE /sessions/{session_id}: log out elsewhere."""
    customer_id, session_id = read_account(request), read_id(request, "session_id")
    async with shop.database.primary.transaction() as tx:
        ended = await sessions.end_session(tx, session_id, customer_id)
    if not ended:
        raise NotFound("There is no such session.")
    shop.changed()
    return _gone({})


def _gone(headers: dict[str, str]) -> Response:
    return Response(status_code=204, headers={"cache-control": "no-store", **headers})
