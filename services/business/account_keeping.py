"""Account keeping: an operator makes accounts with a role, and takes them out of use."""

from __future__ import annotations

import re
import secrets
from typing import Final, NamedTuple

from services.business.passwords import Passwords
from services.business.schemas import EMAIL_FORM
from services.data import accounts, sessions
from services.data.accounts import Account, Role
from services.data.sources import Primary

PASSWORD_BYTES: Final = 18  # 144 random bits, 24 characters
EMAIL: Final = re.compile(EMAIL_FORM)
EMAIL_MAX: Final = 254


class AccountRefused(Exception):
    """It can not be done; the message says why, in plain words. Nothing was changed."""


class MadeAccount(NamedTuple):
    """password: made at random, and told this once."""

    account: Account
    password: str


async def make_account(
    primary: Primary, passwords: Passwords, email: str, role: Role
) -> MadeAccount:
    """An account that can log in at once. Raises AccountRefused where the address has one."""
    if len(email) > EMAIL_MAX or EMAIL.search(email) is None or "\n" in email:
        raise AccountRefused(f"{email[:100]!r} is not an address")
    password = secrets.token_urlsafe(PASSWORD_BYTES)
    with passwords.place():
        password_hash = await passwords.hash(password)
    async with primary.transaction() as tx:
        made = await accounts.insert_account(tx, role, email, email.lower(), password_hash)
        if made is None:
            raise AccountRefused(f"{email} has an account already")
    return MadeAccount(made, password)


async def change_role(primary: Primary, email: str, role: Role) -> Account:
    """Give an account another role; access asks anew before its next request is let in."""
    async with primary.transaction() as tx:
        account = await _the_one(primary, email)
        await accounts.update_role(tx, account.customer_id, role)
        await sessions.tell_access(tx, account.customer_id)
    return account._replace(role=role)


async def disable(primary: Primary, email: str) -> Account:
    """Nobody logs in to it any more, and its sessions end at once."""
    account = await _the_one(primary, email)
    async with primary.transaction() as tx:
        # Under this lock no login is under way that would begin a session afterwards.
        await accounts.lock_account(tx, account.customer_id)
        await accounts.disable_account(tx, account.customer_id)
        await sessions.end_sessions(tx, account.customer_id)
    return account


async def enable(primary: Primary, email: str) -> Account:
    """It can be logged in to again."""
    account = await _the_one(primary, email)
    async with primary.transaction() as tx:
        await accounts.enable_account(tx, account.customer_id)
    return account


async def _the_one(primary: Primary, email: str) -> Account:
    account = await accounts.select_account(primary, email.lower())
    if account is None:
        raise AccountRefused(f"no account has the address {email[:100]!r}")
    return account
