"""Webhooks as a provider sends them, signed by a test that has its key."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx

from services.business.webhook_signature import key_of, sign

PATH = "/webhooks/sandbox"


def charge_event(payment: Any, status: str, **changed: object) -> dict[str, object]:
    """What the sandbox would say of the charge of a payment (a row, or a document)."""
    charge = {
        "charge_id": f"ch_{str(payment['payment_id']).replace('-', '')[-24:]}",
        "charge_key": str(payment["payment_id"]),
        "status": status,
        "amount_minor": payment["amount_minor"],
        "currency": payment["currency"],
        "payment_method": "tok_approve",
        "created_at": "2026-01-01T00:00:00.000Z",
    }
    if status == "declined":
        charge["decline_code"] = "card_declined"
    data = charge | changed
    return {"type": f"charge.{data['status']}", "timestamp": "2026-01-01T00:00:00Z", "data": data}


@dataclass(frozen=True)
class Sender:
    """Sends what it is given, signed by its secret unless it is told otherwise."""

    http: httpx.AsyncClient
    secret: str

    async def send(
        self,
        event: object,
        *,
        webhook_id: str = "",
        secrets: tuple[str, ...] = (),
        off_s: int = 0,
        sent: bytes | None = None,
        **headers: str,
    ) -> httpx.Response:
        """off_s: how far its time is from now. sent: other bytes than those that were signed."""
        body = event if isinstance(event, bytes) else json.dumps(event).encode()
        webhook_id = webhook_id or f"msg_{uuid4().hex}"
        timestamp_s = int(time.time()) + off_s
        signatures = [
            sign(key_of(secret), webhook_id, timestamp_s, body)
            for secret in secrets or (self.secret,)
        ]
        signed = {
            "content-type": "application/json",
            "webhook-id": webhook_id,
            "webhook-timestamp": str(timestamp_s),
            "webhook-signature": " ".join(signatures),
        }
        content = body if sent is None else sent
        return await self.http.post(PATH, content=content, headers=signed | headers)
