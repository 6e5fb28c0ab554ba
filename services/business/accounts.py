"""Accounts: made by a mail that proves the address, changed by the password or another mail.

Whether an address has an account is told to who reads its mails, and to nobody else: asking for an
account and asking for a new password do the same work, and have the same answer, either way.
"""

from __future__ import annotations

import secrets

from starlette.requests import Request
from starlette.responses import Response

from services.business.answers import document
from services.business.logins import (
    TOKEN_BYTES,
    begin_session,
    read_shown,
    session_answer,
    sha256_of,
)
from services.business.mails import TOKEN_LIFETIME, changed_mail, token_mail
from services.business.passwords import check_password
from services.business.requests import find_session, read_json
from services.business.roles import read_account
from services.business.schemas import (
    AccountDocument,
    ConfirmationRequest,
    CustomerRequest,
    MailedDocument,
    PasswordRequest,
    PasswordResetRequest,
)
from services.business.shop import Shop
from services.business.throttles import admit_mail, admit_try, keys_of, network_of
from services.data import accounts, sessions
from services.data.accounts import AccountToken, TokenKind
from services.data.login_tries import forget_try, know_network
from services.data.mails import insert_mail
from services.problems import InvalidBody, NotFound, TokenRefused


async def create_customer(shop: Shop, request: Request) -> Response:
    """POST /customers: mail a token that makes an account, or say by mail that there is one."""
    wanted, _ = await read_json(request, CustomerRequest)
    await mail_token(shop, "confirmation", wanted.email, network_of(request))
    return document(MailedDocument(), 202)


async def create_password_reset(shop: Shop, request: Request) -> Response:
    """POST /password-resets: mail a token that sets a new password."""
    wanted, _ = await read_json(request, PasswordResetRequest)
    await mail_token(shop, "reset", wanted.email, network_of(request))
    return document(MailedDocument(), 202)


async def mail_token(shop: Shop, asked: TokenKind, email: str, network: str) -> None:
    """Send a token of the kind that the address has need of, whatever was asked for.

    To a known address as it was confirmed, never as it was spelt now. Raises TooManyRequests.
    """
    email_key, token = email.lower(), secrets.token_urlsafe(TOKEN_BYTES)
    async with shop.database.primary.transaction() as tx:
        may_mail = await admit_mail(shop, tx, email_key, network)
        account = await accounts.select_account(tx, email_key)
        kind: TokenKind = "confirmation" if account is None else "reset"
        proof = AccountToken(kind, email if account is None else account.email, email_key)
        if may_mail:
            await accounts.insert_token(tx, sha256_of(token), proof, lifetime=TOKEN_LIFETIME)
            await insert_mail(tx, token_mail(asked, proof, token))


async def confirm_customer(shop: Shop, request: Request) -> Response:
    """POST /customers/confirmations: the account, with its password, and a first session."""
    wanted, _ = await read_json(request, ConfirmationRequest)
    check_password(wanted.password, "/password")
    token_sha256, network = sha256_of(wanted.token), network_of(request)
    await _check_token(shop, token_sha256, "confirmation")
    with shop.passwords.place():
        password_hash = await shop.passwords.hash(wanted.password)
    async with shop.database.primary.transaction() as tx:
        proof = await accounts.use_token(tx, token_sha256)
        if proof is None:
            raise TokenRefused
        made = await accounts.insert_account(
            tx, "customer", proof.email, proof.email_key, password_hash
        )
        if made is None:  # by another token of the same address, at the same moment
            raise TokenRefused
        begun = await begin_session(tx, made, read_shown(request))
        keys = keys_of(shop, proof.email_key, network)
        await know_network(tx, made.customer_id, keys.by_network)
    shop.changed()
    return session_answer(shop, begun)


async def complete_password_reset(shop: Shop, request: Request) -> Response:
    """POST /password-resets/completions: a new password; all sessions of the account end."""
    wanted, _ = await read_json(request, ConfirmationRequest)
    check_password(wanted.password, "/password")
    token_sha256 = sha256_of(wanted.token)
    await _check_token(shop, token_sha256, "reset")
    with shop.passwords.place():
        password_hash = await shop.passwords.hash(wanted.password)
    async with shop.database.primary.transaction() as tx:
        proof = await accounts.use_token(tx, token_sha256)
        found = proof and await accounts.select_account(tx, proof.email_key)
        if proof is None or found is None:
            raise TokenRefused
        account = await accounts.lock_account(tx, found.customer_id)
        if account is None or account.disabled_at is not None:
            raise TokenRefused
        await accounts.update_password(tx, account.customer_id, password_hash)
        await sessions.end_sessions(tx, account.customer_id)
        # Whoever reads its mails is its owner: there he is not delayed by what others try.
        keys = keys_of(shop, proof.email_key, network_of(request))
        await know_network(tx, account.customer_id, keys.by_network)
        await insert_mail(tx, changed_mail(account.email))
    shop.changed()
    return Response(status_code=204, headers={"cache-control": "no-store"})


async def _check_token(shop: Shop, token_sha256: bytes, kind: TokenKind) -> None:
    """Before a password is hashed for it; what counts is whether it can be used afterwards."""
    proof = await accounts.select_token(shop.database.primary, token_sha256)
    if proof is None or proof.kind != kind:
        raise TokenRefused


async def show_account(shop: Shop, request: Request) -> Response:
    """GET /customers/me: the account that is logged in."""
    account = await accounts.select_account_of(shop.database.primary, read_account(request))
    if account is None:
        raise NotFound("The first operator has no account.")
    return document(
        AccountDocument(
            customer_id=account.customer_id,
            role=account.role,
            email=account.email,
            created_at=account.created_at,
            password_changed_at=account.password_changed_at,
        )
    )


async def change_password(shop: Shop, request: Request) -> Response:
    """PUT /customers/me/password: another password; all other sessions of the account end.

    Comparing the one of now counts as a try of it: who has stolen a session guesses no faster.
    """
    customer_id = read_account(request)
    wanted, _ = await read_json(request, PasswordRequest)
    check_password(wanted.new_password, "/new_password")
    seen = await accounts.select_account_of(shop.database.primary, customer_id)
    if seen is None:
        raise NotFound("The first operator has no account.")
    keys = keys_of(shop, seen.email_key, network_of(request))
    with shop.passwords.place():
        counted = await admit_try(shop, keys, seen.email_key)
        if not await shop.passwords.matches(seen.password_hash, wanted.current_password):
            raise _wrong_password()
        password_hash = await shop.passwords.hash(wanted.new_password)
    async with shop.database.primary.transaction() as tx:
        account = await accounts.lock_account(tx, customer_id)
        if account is None or account.password_changed_at != seen.password_changed_at:
            raise _wrong_password()
        await accounts.update_password(tx, customer_id, password_hash)
        await sessions.end_sessions(tx, customer_id, but=find_session(request))
        await forget_try(tx, keys, counted.tried_at)
        await insert_mail(tx, changed_mail(account.email))
    shop.changed()
    return Response(status_code=204, headers={"cache-control": "no-store"})


def _wrong_password() -> InvalidBody:
    return InvalidBody(errors=[{"field": "/current_password", "detail": "is wrong"}])
