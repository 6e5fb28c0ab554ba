"""Somebody with an account, at business itself: what access would say of a token is asked there."""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Any
from uuid import UUID, uuid4

import httpx

from tests.shopping import Books, Customer

PASSWORD = "correct horse battery staple"
TOKEN = re.compile(r"^[A-Za-z0-9_-]{43}$", re.MULTILINE)


def new_email() -> str:
    return f"Somebody.{uuid4().hex}@Example.com"


def problem_of(answer: httpx.Response) -> tuple[int, str]:
    """Status and name."""
    return answer.status_code, answer.json()["type"].removeprefix("/problems/")


def sha256_hex(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


async def identity_of(business: httpx.AsyncClient, token: str) -> dict[str, Any] | None:
    """What access is told of a token; None where nobody has it."""
    answer = await business.get(f"/internal/identities/{sha256_hex(token)}")
    assert answer.status_code in (200, 404), answer.text
    found: dict[str, Any] = answer.json()
    return found if answer.status_code == 200 else None


async def headers_of(business: httpx.AsyncClient, token: str) -> dict[str, str]:
    """The fields by which access would pass a request with this token on."""
    found = await identity_of(business, token)
    if found is None:
        return {}
    headers = {"x-customer-id": found["customer_id"], "x-customer-role": found["role"]}
    if found["session_id"] is not None:
        headers["x-session-id"] = found["session_id"]
    if found["guests"]:
        headers["x-customer-guests"] = ",".join(found["guests"])
    return headers


def new_address() -> str:
    """An address that nobody else comes from."""
    return str(IPv6Address(uuid4().int))


@dataclass
class Person:
    """One browser: its address, and the session and the guest's token that it has."""

    business: httpx.AsyncClient
    books: Books
    email: str = field(default_factory=new_email)
    password: str = PASSWORD
    address: str = field(default_factory=new_address)
    token: str | None = None
    guest: Customer | None = None

    async def asked(
        self, method: str, path: str, body: object = None, **headers: str
    ) -> httpx.Response:
        sent = {"x-forwarded-for": self.address}
        if self.token is not None:
            sent |= await headers_of(self.business, self.token)
        elif self.guest is not None and self.guest.token is not None:
            sent |= await headers_of(self.business, self.guest.token)
        if self.guest is not None and self.guest.token is not None:
            sent["x-guest-token-sha256"] = sha256_hex(self.guest.token)
        sent |= {"idempotency-key": uuid4().hex}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.business.request(method, path, json=body, headers=sent)

    async def mailed(self) -> str:
        """The token of the newest mail to this address."""
        sql = "select body from mails where lower(recipient) = lower($1) order by mail_id desc"
        found = TOKEN.search(await self.books.value(f"{sql} limit 1", self.email))
        assert found is not None
        return found[0]

    async def sign_up(self) -> httpx.Response:
        """The answer to the confirmation, by a mail."""
        answer = await self.asked("POST", "/customers", {"email": self.email})
        assert answer.status_code == 202, answer.text
        return await self.confirm(await self.mailed())

    async def confirm(self, token: str) -> httpx.Response:
        body = {"token": token, "password": self.password}
        return self._kept(await self.asked("POST", "/customers/confirmations", body))

    async def log_in(self, password: str | None = None) -> httpx.Response:
        body = {"email": self.email, "password": password or self.password}
        return self._kept(await self.asked("POST", "/sessions", body))

    async def ask_reset(self) -> str:
        """The token that was mailed."""
        answer = await self.asked("POST", "/password-resets", {"email": self.email})
        assert answer.status_code == 202, answer.text
        return await self.mailed()

    async def ask_quietly(self) -> httpx.Response:
        return await self.asked("POST", "/customers", {"email": self.email})

    async def reset(self, token: str, password: str) -> httpx.Response:
        body = {"token": token, "password": password}
        return await self.asked("POST", "/password-resets/completions", body)

    async def change_password(self, new: str, current: str | None = None) -> httpx.Response:
        body = {"current_password": current or self.password, "new_password": new}
        return await self.asked("PUT", "/customers/me/password", body)

    async def is_known(self, token: str | None = None) -> bool:
        """Whether access would be told who it is."""
        return await identity_of(self.business, token or self.token or "") is not None

    def elsewhere(self) -> Person:
        """The same person with another browser, in another network."""
        return Person(self.business, self.books, self.email, self.password)

    def _kept(self, answer: httpx.Response) -> httpx.Response:
        if answer.status_code == 201:
            self.token = answer.json()["token"]
            if self.guest is not None:
                self.guest = None
        return answer


async def proof_of(books: Books, email: str, kind: str) -> str:
    """A token as a mail has it, where another process sends the mails."""
    token = secrets.token_urlsafe(32)
    await books.rows(
        "insert into account_tokens (token_sha256, kind, email, email_key, expires_at)"
        " values ($1, $2, $3, lower($3), now() + interval '1 hour')",
        hashlib.sha256(token.encode()).digest(),
        kind,
        email,
    )
    return token


async def account_id(books: Books, email: str) -> UUID:
    sql = "select customer_id from accounts where email_key = lower($1)"
    return UUID(str(await books.value(sql, email)))
