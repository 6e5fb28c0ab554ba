"""Roles: what a request may do at all, by what access says of who it comes from."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from starlette.requests import Request

from services.business.requests import read_customer
from services.problems import Forbidden, Unauthenticated

ACCOUNTS: Final = frozenset(("customer", "merchant", "operator"))
MERCHANTS: Final = frozenset(("merchant", "operator"))
OPERATORS: Final = frozenset(("operator",))


def check_role(request: Request, roles: frozenset[str]) -> None:
    """Raise Unauthenticated for who is nobody, Forbidden for another role."""
    role = request.headers.get("x-customer-role")
    if role is None:
        raise Unauthenticated
    if role not in roles:
        raise Forbidden


def read_account(request: Request) -> UUID:
    """The customer that is logged in."""
    check_role(request, ACCOUNTS)
    return read_customer(request)


def check_operator(request: Request) -> None:
    """Let in who runs the shop."""
    check_role(request, OPERATORS)


def check_merchant(request: Request) -> None:
    """Let in who keeps the shop, or runs it."""
    check_role(request, MERCHANTS)
