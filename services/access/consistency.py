"""Tokens of what a customer has seen: handed to the client, and verified when they come back.

They travel in cookies, for browsers, and in a field of their own for clients with bearer tokens.
Pages are the same for everybody: nothing here touches their requests or their answers.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

from services.access.fields import Sorted
from services.consistency import INTERNAL_HEADER, LIFETIME_S, TOKEN_HEADER, Seal, Seen, read_seen
from services.exchange import Headers, Response
from services.settings import AccessSettings
from services.telemetry import logger

log = logger(__name__)

FIELD: Final = INTERNAL_HEADER.encode()
TOKEN_FIELD: Final = TOKEN_HEADER.encode()
# Apart, so that a read that was under way during a write does not put back what came before it.
WROTE: Final = b"tercet_wrote"
READ: Final = b"tercet_read"


class Tokens:
    """Signs what business says that a customer has seen, and believes nothing else."""

    def __init__(self, settings: AccessSettings) -> None:
        self._seal = Seal(settings.cookie_secret.get_secret_value())
        secure = b"; Secure" if settings.cookie_secure else b""
        self._attributes = b"; Path=/; Max-Age=%d; HttpOnly; SameSite=Lax%b" % (LIFETIME_S, secure)

    def shown(self, fields: Sorted, customer_id: str) -> Headers:
        """What business is told: the farthest that a valid token of this customer's says."""
        tokens = list(fields.tokens) if len(fields.tokens) == 1 else []
        if fields.cookies:
            tokens = [*tokens, *cookie_tokens(fields.cookies)]
        if not tokens:
            return []
        now = time.time()
        opened = (self._seal.open(token, customer_id, now) for token in tokens)
        seen = max((one for one in opened if one is not None), default=None)
        return [] if seen is None else [(FIELD, seen.text.encode())]

    def given(self, answer: Response, fields: Sorted | None, *, wrote: bool) -> Headers:
        """The fields by which the client gets what business says that it has seen now.

        Who shows a bearer token keeps no cookies.
        """
        for name, value in answer.headers:
            if name == FIELD:
                try:
                    customer_id, seen = read_answer(value)
                except ValueError:
                    log.exception("bug", field=INTERNAL_HEADER)
                    return []
                token = self._seal.token(seen, customer_id, time.time())
                if fields is not None and fields.authorizations:
                    return [(TOKEN_FIELD, token)]
                cookie = (WROTE if wrote else READ) + b"=" + token + self._attributes
                return [(TOKEN_FIELD, token), (b"set-cookie", cookie)]
        return []


def read_answer(value: bytes) -> tuple[str, Seen]:
    """A customer and what it has seen; ValueError for a form that business does not write."""
    customer_id, _, text = value.decode().partition("/")
    return customer_id, read_seen(text)


def cookie_tokens(cookies: Iterable[bytes]) -> list[bytes]:
    """The tokens in the values of Cookie fields: of each name the first, as each costs an HMAC."""
    found: dict[bytes, bytes] = {}
    for value in cookies:
        if WROTE in value or READ in value:
            for pair in value.split(b";"):
                name, _, token = pair.strip().partition(b"=")
                if name in (WROTE, READ):
                    found.setdefault(name, token)
    return list(found.values())
