"""Accounts to log in to, put into the database of a stack on this machine: no mail is read."""

from __future__ import annotations

import secrets
from typing import Final

import asyncpg

from infra.local import secret_files
from infra.local.folder import DataFolder
from loadtests.own_stack import Shop
from loadtests.shop import NoShopError
from services.business.hasher import HASHER
from services.business.passwords import in_one_form
from services.data.accounts import INSERT_ACCOUNT

ACCOUNTS: Final = 200  # so many that none is tried again while it is being looked at


async def make_accounts(shop: Shop, count: int = ACCOUNTS) -> list[tuple[str, str]]:
    """Address and password of new accounts. All have one password, whose hash is made once."""
    if shop.data_dir is None:
        raise NoShopError("accounts are made only in a stack that runs on this machine")
    password = secrets.token_urlsafe(12)
    hashed = HASHER.hash(in_one_form(password))
    run = secrets.token_hex(4)
    emails = [f"load-{run}-{number}@example.com" for number in range(count)]
    connection = await asyncpg.connect(dsn(shop, "tercet_app", "app_password"))
    try:
        for email in emails:
            await connection.execute(INSERT_ACCOUNT, "customer", email, email, hashed)
    finally:
        await connection.close()
    return [(email, password) for email in emails]


def dsn(shop: Shop, role: str, secret: str) -> str:
    """How a role connects to the primary of the stack."""
    address = next(
        part["address"]
        for part in shop.parts()
        if part.get("role") == "primary" or part["name"] == "primary"
    )
    password = secret_files.read_secret(DataFolder.at(shop.folder).secrets, secret)
    return f"postgresql://{role}:{password}@{address}/tercet"
