"""Signatures of webhooks by Standard Webhooks: made by who sends, checked by who receives.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md: the
HMAC-SHA256 of `id.timestamp.body`, in base64 after `v1,`. What is signed are the bytes that came,
never the same JSON written anew.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from typing import Final

ID_HEADER: Final = "webhook-id"
TIMESTAMP_HEADER: Final = "webhook-timestamp"
SIGNATURE_HEADER: Final = "webhook-signature"
HEADERS: Final = (ID_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER)
# Into the past against webhooks that somebody has kept, into the future against those that he
# could keep for later; as the specification's own libraries have it.
TOLERANCE_S: Final = 300
SCHEME: Final = "v1,"
BASE64_PREFIX: Final = "whsec_"
SIGNATURES_MAX: Final = 20  # keys that a sender rotates at once; each costs a comparison
ID_FORM: Final = re.compile(r"[\x21-\x7e]{1,255}\Z")
TIMESTAMP_FORM: Final = re.compile(r"[0-9]{1,12}\Z")


class Malformed(Exception):
    """A header is missing or has another form. header: which one; detail: what is wrong."""

    def __init__(self, header: str, detail: str) -> None:
        super().__init__(f"{header} {detail}")
        self.header, self.detail = header, detail


class Refused(Exception):
    """Not signed by who has a key, or not at this time."""


def key_of(secret: str) -> bytes:
    """The key that a secret stands for: base64 after whsec_, any other as it is."""
    if not secret.startswith(BASE64_PREFIX):
        return secret.encode()
    text = secret.removeprefix(BASE64_PREFIX)
    return base64.b64decode(text + "=" * (-len(text) % 4))


def sign(key: bytes, webhook_id: str, timestamp_s: int, body: bytes) -> str:
    """One signature, as it stands in the header."""
    return SCHEME + base64.b64encode(_digest(key, webhook_id, str(timestamp_s), body)).decode()


def verify(keys: Sequence[bytes], headers: Mapping[str, str], body: bytes, now_s: float) -> str:
    """The webhook's id, if any of its signatures is right by any of the keys.

    headers: by lower-case name. now_s: seconds since 1970. Raises Malformed or Refused.
    """
    webhook_id = _read(headers, ID_HEADER, ID_FORM, "1 to 255 visible ASCII characters")
    timestamp = _read(headers, TIMESTAMP_HEADER, TIMESTAMP_FORM, "whole seconds since 1970")
    shown = _signatures(headers.get(SIGNATURE_HEADER, ""))
    if abs(now_s - int(timestamp)) > TOLERANCE_S:
        raise Refused("it was not sent just now")
    # Every pair is compared, whatever the others came to: no timing tells which key is in use.
    known = False
    for key in keys:
        expected = _digest(key, webhook_id, timestamp, body)
        for signature in shown:
            known |= hmac.compare_digest(expected, signature)
    if not known:
        raise Refused("no signature is right")
    return webhook_id


def _digest(key: bytes, webhook_id: str, timestamp: str, body: bytes) -> bytes:
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    return hmac.new(key, signed, hashlib.sha256).digest()


def _read(headers: Mapping[str, str], name: str, form: re.Pattern[str], words: str) -> str:
    value = headers.get(name, "")
    if not form.match(value):
        raise Malformed(name, f"must be {words}" if value else "is missing")
    return value


def _signatures(header: str) -> list[bytes]:
    """Those of the one scheme that is known here; those of others are passed over."""
    parts = header.split(" ")
    if not header:
        raise Malformed(SIGNATURE_HEADER, "is missing")
    if len(parts) > SIGNATURES_MAX:
        raise Malformed(SIGNATURE_HEADER, f"has more than {SIGNATURES_MAX} signatures")
    found = []
    for part in parts:
        if part.startswith(SCHEME):
            try:
                found.append(base64.b64decode(part.removeprefix(SCHEME), validate=True))
            except (binascii.Error, ValueError):
                raise Malformed(SIGNATURE_HEADER, "is not base64 after v1,") from None
    if not found:
        raise Malformed(SIGNATURE_HEADER, "has no signature of scheme v1")
    return found
