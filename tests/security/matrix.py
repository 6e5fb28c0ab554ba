"""Who may do what: for every route and everybody, from the route's guard and whose the thing is."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal
from uuid import uuid4

from pydantic import BaseModel

from services.business.endpoints import PUBLIC
from tests.shopping import Books

Actor = Literal["owner", "another customer", "another guest", "merchant", "operator", "nobody"]
ROLES: Final[Mapping[Actor, str | None]] = {
    "owner": "customer",
    "another customer": "customer",
    "another guest": "guest",
    "merchant": "merchant",
    "operator": "operator",
    "nobody": None,
}
ACTORS: Final = tuple(ROLES)
EVERYBODY: Final = frozenset(ROLES.values())
# By a route's guard, the roles that it is for.
LET_IN: Final[Mapping[str, frozenset[str | None]]] = {
    "nobody": EVERYBODY,
    "optional customer": EVERYBODY,
    "customer": EVERYBODY - {None},
    "account": frozenset(("customer", "merchant", "operator")),
    "merchant": frozenset(("merchant", "operator")),
    "operator": frozenset(("operator",)),
}
# Parameters of paths: things of one customer, and things that are nobody's in particular.
OWNED: Final = frozenset(("order_id", "cart_id", "payment_id", "session_id"))
SHARED: Final = frozenset(
    ("slug", "variant_id", "flash_sale_id", "provider", "upstream", "payment_review_id")
)
PARAMETER: Final = re.compile(r"{(\w+)}")
Verdict = Literal["let in", "unauthenticated", "forbidden", "not-found"]


@dataclass(frozen=True)
class Asked:
    """A route as clients see it; body: of what form, None for none."""

    method: str
    path: str
    guard: str
    body: type[BaseModel] | None = None

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def parameters(self) -> set[str]:
        return set(PARAMETER.findall(self.path))

    def verdict(self, actor: Actor) -> Verdict:
        """What becomes of this actor's request for the owner's thing."""
        role = ROLES[actor]
        if role not in LET_IN[self.guard]:
            return "unauthenticated" if role is None else "forbidden"
        of_customers = self.guard in ("customer", "account", "optional customer")
        if of_customers and self.parameters & OWNED and actor != "owner":
            return "not-found"
        return "let in"


# Answered by access itself: the only ones that are listed, as business does not know them.
OF_ACCESS: Final = (
    Asked("GET", "/live", "nobody"),
    Asked("GET", "/ready", "nobody"),
    Asked("POST", "/events", "nobody"),
    Asked("GET", "/live?products={slug}", "nobody"),
    Asked("GET", "/live?orders=me", "customer"),
    Asked("GET", "/live?analytics=all", "merchant"),
)
ROUTES: Final = (
    *(Asked(each.method, each.path, each.guard, each.body) for each in PUBLIC),
    *OF_ACCESS,
)

# By name of a field that a body has to have, a value that is allowed there.
VALUES: Final[Mapping[str, Any]] = {
    "quantity": 1,
    "payment_method": "tok_approve",
    "kind": "receive",
    "reason": "a test",
    "resolution": "a test",
    "forced": None,
    "opens_at": "2030-01-01T00:00:00Z",
    "closes_at": "2030-01-02T00:00:00Z",
    "customer_limit": 1,
    "unit_price": {"amount_minor": 100, "currency": "USD"},
    "type": "charge.approved",
    "timestamp": "2030-01-01T00:00:00Z",
    "data": {},
    "token": "a" * 43,
    "password": "correct horse battery staple",
    "current_password": "not the password of anybody",
    "new_password": "correct horse battery staple",
}


def body_of(model: type[BaseModel] | None, things: Mapping[str, str]) -> Any:
    """A body that the model takes: what is required, and the lines of what is ordered."""
    if model is None:
        return None
    values = {
        **VALUES,
        **things,
        "email": f"{uuid4().hex}@example.com",
        "lines": [{"variant_id": things["variant_id"], "quantity": 1}],
    }
    fields = model.model_fields.items()
    wanted = [name for name, field in fields if field.is_required() or name == "lines"]
    unknown = [name for name in wanted if name not in values]
    assert not unknown, f"{model.__name__} has to have {unknown}: say here what is allowed there"
    return {name: values[name] for name in wanted}


# In the form of Argon2id's, and of no password.
NO_PASSWORDS: Final = "$argon2id$v=19$m=19456,t=2,p=1$" + "c2FsdHNhbHQ" * 2 + "$" + "A" * 43
INSERT_ACCOUNT: Final = """
    insert into accounts (customer_id, email, email_key, password_hash) values ($1, $2, $2, $3)
"""
INSERT_SESSION: Final = """
    insert into sessions (token_sha256, customer_id, expires_at)
    values ($1, $2, now() + interval '1 hour')
"""
INSERT_GUESTS_TOKEN: Final = """
    insert into customer_tokens (token_sha256, customer_id, expires_at)
    values ($1, $2, now() + interval '1 hour')
"""


class People:
    """The customers of the matrix; each request shows a token of its own, as some end theirs."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._ids: dict[Actor, str] = {}

    async def id_of(self, actor: Actor) -> str:
        if actor not in self._ids:
            sql = "insert into customers (kind) values ($1) returning customer_id"
            customer_id = str(await self._books.value(sql, ROLES[actor]))
            self._ids[actor] = customer_id
            if ROLES[actor] != "guest":
                email = f"{uuid4().hex}@example.com"
                await self._books.rows(INSERT_ACCOUNT, customer_id, email, NO_PASSWORDS)
        return self._ids[actor]

    async def token_of(self, actor: Actor) -> str | None:
        if actor == "nobody":
            return None
        token = secrets.token_urlsafe(32)
        digest = hashlib.sha256(token.encode()).digest()
        sql = INSERT_GUESTS_TOKEN if ROLES[actor] == "guest" else INSERT_SESSION
        await self._books.rows(sql, digest, await self.id_of(actor))
        return token

    async def session_of(self, actor: Actor) -> str:
        """The id of another session of an actor's."""
        await self.token_of(actor)
        sql = "select session_id from sessions where customer_id = $1 order by session_id limit 1"
        return str(await self._books.value(sql, await self.id_of(actor)))
