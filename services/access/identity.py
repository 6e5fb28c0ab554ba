"""What a token stands for, as business says it."""

from __future__ import annotations

from typing import Final, Literal
from uuid import UUID

import msgspec

from services.exchange import Headers

Role = Literal["guest", "customer", "merchant", "operator"]


class IdentityDocument(msgspec.Struct, frozen=True):
    """GET /internal/identities/{token_sha256}: the guests whose things came along at a login."""

    customer_id: UUID
    role: Role
    session_id: UUID | None
    guests: tuple[UUID, ...]
    expires_in_s: float


class Identity:
    """A customer with a role, and how business is told of it."""

    __slots__ = ("customer_id", "expires_in_s", "fields", "guests", "role")

    def __init__(self, document: IdentityDocument) -> None:
        self.customer_id = str(document.customer_id)
        self.role = document.role
        self.expires_in_s = document.expires_in_s
        fields = [
            (b"x-customer-id", self.customer_id.encode()),
            (b"x-customer-role", self.role.encode()),
        ]
        if document.session_id is not None:
            fields.append((b"x-session-id", str(document.session_id).encode()))
        self.guests = tuple(str(guest) for guest in document.guests)
        if self.guests:
            fields.append((b"x-customer-guests", ",".join(self.guests).encode()))
        self.fields: Final[Headers] = fields


_decode = msgspec.json.Decoder(IdentityDocument).decode


def read_identity(body: bytes) -> Identity:
    """Raises msgspec.DecodeError for what business does not write."""
    return Identity(_decode(body))
