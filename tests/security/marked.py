"""Requests with a secret of each kind in every field and header that a client can fill."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from services.business.webhook_signature import key_of, sign
from tests.running_stack import RunningStack
from tests.security.guests import Goods, Guest
from tests.security.wire import exchange, request

JSON = "content-type: application/json"


@dataclass(frozen=True)
class Markers:
    """What no log may have: a card, its check number, a password, a token, a secret, a session."""

    card: str
    check_number: str
    password: str
    token: str
    secret: str
    session: str

    @property
    def values(self) -> list[str]:
        return [self.card, self.check_number, self.password, self.token, self.secret, self.session]

    def in_all(self, document: Any) -> Any:
        """The document with more members in each object, and these in place of its texts."""
        if isinstance(document, dict):
            inner = {name: self.in_all(value) for name, value in document.items()}
            return inner | {
                "card_number": self.card,
                "cvv": self.check_number,
                "password": self.password,
                "token": self.token,
                "secret": self.secret,
                self.session: self.session,
            }
        if isinstance(document, list):
            return [self.in_all(item) for item in document]
        return self.card if isinstance(document, str) else document

    def one_by_one(self, document: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The document with one member after another in the shape of one of these."""
        for name in document:
            for value in self.values:
                yield document | {name: value}

    @property
    def headers(self) -> list[str]:
        """Without X-Request-Id, which is there to be found in logs."""
        return [
            f"x-card-number: {self.card}",
            f"x-password: {self.password}",
            f"referer: https://shop.example/?token={self.token}&cvv={self.check_number}",
            f"user-agent: {self.session}",
            f"cookie: session={self.session}; tercet_consistency={self.token}",
            f"consistency-token: {self.token}",
            f"traceparent: {self.token}",
            f"x-customer-id: {self.session}",
        ]


def new_markers() -> Markers:
    """No two runs have the same, so a log that has one has it from this run."""
    names = ("cvv", "password", "token", "secret", "session")
    made = {name: f"{name}{secrets.token_hex(12)}" for name in names}
    # Longer than a check number is, which a log may well have by chance.
    card = "4000056655665556"
    return Markers(
        card, made["cvv"], made["password"], made["token"], made["secret"], made["session"]
    )


def send_marked(stack: RunningStack, url: str, goods: Goods, guest: Guest) -> Markers:
    """Send them all to access at `url`, and to the sandbox of the stack."""
    markers = new_markers()
    for method, path, body in _bodies(markers, goods, guest):
        # A key and a bearer of the client's own, one of ours, and none.
        for own in (
            [f"authorization: Bearer {markers.token}", f"idempotency-key: {markers.secret}"],
            [f"authorization: {guest.authorization}", f"idempotency-key: {markers.secret}"],
        ):
            data = json.dumps(body).encode()
            exchange(url, request(method, path, JSON, *own, *markers.headers, body=data))
    for data in _webhooks(markers, stack, guest):
        exchange(url, data)
    _send_to_sandbox(markers, stack)
    return markers


def _bodies(markers: Markers, goods: Goods, guest: Guest) -> Iterator[tuple[str, str, Any]]:
    order = {"lines": [{"variant_id": goods.variant_id, "quantity": 1}], "currency": "USD"}
    routes: dict[tuple[str, str], dict[str, Any]] = {
        ("POST", "/orders"): order,
        ("POST", f"/orders/{guest.order_id}/payments"): {"payment_method": "tok_decline"},
        ("POST", "/carts"): order,
        ("PUT", f"/carts/{guest.order_id}/lines/{goods.variant_id}"): {"quantity": 1},
        ("PUT", f"/orders/{guest.order_id}/cancellation"): {"reason": "none"},
        ("POST", f"/flash-sales/{guest.order_id}/claims"): {"quantity": 1},
        ("POST", f"/payments/{guest.order_id}/refunds"): {"amount_minor": 1},
        ("POST", "/operator/stock-movements"): {"variant_id": goods.variant_id, "reason": "x"},
    }
    for (method, path), body in routes.items():
        yield method, path, markers.in_all(body)
        for marked in markers.one_by_one(body):
            yield method, path, marked
        yield method, f"{path}?card={markers.card}&token={markers.token}", body
        yield "GET", f"{path.rpartition('/')[0] or path}/{markers.token}", {}


def _webhooks(markers: Markers, stack: RunningStack, guest: Guest) -> Iterator[bytes]:
    """Signed and not; with a marker in each header by which they are, and in all of the body."""
    key = key_of(stack.secret("webhook_secret"))
    charge = {"charge_id": "ch", "charge_key": guest.order_id, "status": "approved"}
    event = {"type": "charge.approved", "timestamp": "now", "data": charge}
    bodies = [markers.in_all(event), event | {"data": markers.in_all(charge)}]
    for body in (*bodies, *markers.one_by_one(event)):
        data, webhook_id, now_s = json.dumps(body).encode(), secrets.token_hex(8), int(time.time())
        signature = sign(key, webhook_id, now_s, data)
        fields = {
            "webhook-id": webhook_id,
            "webhook-timestamp": str(now_s),
            "webhook-signature": signature,
        }
        yield _webhook(fields, markers, data)
    for name in fields:
        for value in markers.values:
            yield _webhook(fields | {name: value}, markers, data)
    # Of the form of a signature, so that it is compared: base64 has a multiple of four characters.
    forged = f"v1,{markers.secret}AA"
    yield _webhook(fields | {"webhook-signature": forged}, markers, data)


def _webhook(fields: dict[str, str], markers: Markers, data: bytes) -> bytes:
    lines = [f"{name}: {value}" for name, value in fields.items()]
    bearer = f"authorization: Bearer {markers.token}"
    return request("POST", "/webhooks/sandbox", JSON, bearer, *lines, *markers.headers, body=data)


def _send_to_sandbox(markers: Markers, stack: RunningStack) -> None:
    url = stack.environment["TERCET_PROVIDER_URL"]
    ours = f"authorization: Bearer {stack.secret('provider_secret')}"
    charge = {"charge_key": "k", "amount_minor": 1, "currency": "USD", "payment_method": "tok_no"}
    calls = [("POST", "/charges", body) for body in markers.one_by_one(charge)]
    calls += [("POST", "/tokens", {"card_number": markers.card})]
    calls += [("PUT", "/behaviour", markers.in_all({"mode": "normal"}))]
    calls += [("POST", f"/challenges/{markers.token}", {"decision": markers.password})]
    calls += [
        ("GET", f"/charges/{markers.token}", {}),
        ("GET", f"/webhooks?charge_key={markers.token}", {}),
    ]
    for method, path, body in calls:
        for bearer in (ours, f"authorization: Bearer {markers.token}"):
            data = json.dumps(body).encode()
            exchange(url, request(method, path, JSON, bearer, *markers.headers, body=data))
