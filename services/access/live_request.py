"""What a request for a live stream asks for, read from its query."""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from services.exchange import Headers
from services.problems import FieldError, InvalidRequest


class Kind(NamedTuple):
    """Things of one kind: how they are asked for, and as which topics."""

    parameter: str
    topic: str
    means: str
    form: re.Pattern[str]
    limit: int


# As products_slug_form has it. A page shows one product, a list or a cart some dozens.
PRODUCTS: Final = Kind(
    "products", "product", "slugs", re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*"), limit=50
)
SALES: Final = Kind(
    "sales", "sale", "ids", re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"), limit=10
)
NAME_LENGTH: Final = 200
PARAMETERS: Final = ("products", "sales", "orders", "analytics")
EVENT_STREAM: Final = b"text/event-stream"


class Wanted(NamedTuple):
    """Topics that anybody may listen to, and those for which it matters who asks."""

    topics: tuple[str, ...]
    orders: bool
    analytics: bool

    @property
    def private(self) -> bool:
        return self.orders or self.analytics


def asks_for_stream(target: bytes, headers: Headers) -> bool:
    """Whether a request for /live is one for a stream: it names what for, or wants events.

    Without either it asks whether this process lives.
    """
    if b"?" in target:
        return True
    return any(name == b"accept" and EVENT_STREAM in value for name, value in headers)


def read_wanted(target: bytes) -> Wanted:
    """Raises InvalidRequest that names every parameter that is wrong."""
    given, errors = _parameters(target)
    topics = [
        *_listed(given, PRODUCTS, errors),
        *_listed(given, SALES, errors),
    ]
    orders = _flag(given, "orders", "me", errors)
    analytics = _flag(given, "analytics", "all", errors)
    if not (errors or topics or orders or analytics):
        detail = "nothing is asked for: products=, sales=, orders=me or analytics=all"
        errors.append({"field": "products", "detail": detail})
    if errors:
        raise InvalidRequest(errors=errors)
    return Wanted(tuple(dict.fromkeys(topics)), orders, analytics)


def _parameters(target: bytes) -> tuple[dict[str, str], list[FieldError]]:
    given: dict[str, str] = {}
    errors: list[FieldError] = []
    for part in filter(None, target.partition(b"?")[2].split(b"&")):
        raw_name, _, raw_value = part.partition(b"=")
        name = unquote_to_bytes(raw_name).decode("latin-1")
        if name not in PARAMETERS:
            shown = name if name.isascii() and name.isprintable() else "query"
            errors.append({"field": shown, "detail": "is not known here"})
        elif name in given:
            errors.append({"field": name, "detail": "is there more than once"})
        else:
            given[name] = unquote_to_bytes(raw_value).decode("latin-1")
    return given, errors


def _listed(given: dict[str, str], kind: Kind, errors: list[FieldError]) -> list[str]:
    """Topics of one kind; what is wrong goes into `errors`."""
    if kind.parameter not in given:
        return []
    found = given[kind.parameter].split(",")
    if len(found) > kind.limit:
        errors.append({"field": kind.parameter, "detail": f"at most {kind.limit}"})
    elif not all(len(one) <= NAME_LENGTH and kind.form.fullmatch(one) for one in found):
        errors.append({"field": kind.parameter, "detail": f"has to be {kind.means} by commas"})
    return [f"{kind.topic}:{one}" for one in found]


def _flag(given: dict[str, str], name: str, only: str, errors: list[FieldError]) -> bool:
    if name in given and given[name] != only:
        errors.append({"field": name, "detail": f"has to be {only}"})
    return name in given
