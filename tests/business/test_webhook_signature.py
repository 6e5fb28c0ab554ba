"""Signatures of webhooks: the specification's own example, and everything that is refused."""

from __future__ import annotations

import ast
import base64
import inspect
import json

import pytest

from services.business import webhook_signature
from services.business.webhook_signature import (
    SIGNATURES_MAX,
    TOLERANCE_S,
    Malformed,
    Refused,
    key_of,
    sign,
    verify,
)

NOW_S = 1_800_000_000
KEY = key_of("aB3dE5fG7hI9jK1lM3nO5pQ7rS9tU1vW")
OLD_KEY = key_of("wV1uT9sR7qP5oN3mL1kJ9iH7gF5eD3bA")
OTHER_KEY = key_of("0123456789abcdefghijklmnopqrstuv")
BODY = b'{"type": "charge.approved", "amount": 1.0}'


def headers(
    *signatures: str, webhook_id: str = "msg_1", timestamp_s: object = NOW_S
) -> dict[str, str]:
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": " ".join(signatures),
    }


def signed(key: bytes = KEY, timestamp_s: int = NOW_S, body: bytes = BODY) -> dict[str, str]:
    return headers(sign(key, "msg_1", timestamp_s, body), timestamp_s=timestamp_s)


def test_the_example_of_the_specification_is_signed_as_it_says() -> None:
    key = key_of("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    webhook_id, timestamp_s = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330
    body = b'{"test": 2432232314}'
    assert sign(key, webhook_id, timestamp_s, body) == signature
    shown = headers(signature, webhook_id=webhook_id, timestamp_s=timestamp_s)
    assert verify([key], shown, body, timestamp_s) == webhook_id


@pytest.mark.parametrize("off_s", [-TOLERANCE_S, 0, TOLERANCE_S])
def test_what_was_sent_within_five_minutes_is_believed(off_s: int) -> None:
    assert verify([KEY], signed(timestamp_s=NOW_S + off_s), BODY, NOW_S) == "msg_1"


@pytest.mark.parametrize("off_s", [-TOLERANCE_S - 1, TOLERANCE_S + 1, -86_400, 86_400])
def test_what_is_older_or_comes_from_the_future_is_refused(off_s: int) -> None:
    with pytest.raises(Refused):
        verify([KEY], signed(timestamp_s=NOW_S + off_s), BODY, NOW_S)


def test_either_of_two_keys_is_believed_while_they_are_rotated() -> None:
    for key in (KEY, OLD_KEY):
        assert verify([KEY, OLD_KEY], signed(key), BODY, NOW_S) == "msg_1"
    with pytest.raises(Refused):
        verify([KEY], signed(OLD_KEY), BODY, NOW_S)


def test_one_right_signature_among_several_is_enough() -> None:
    wrong, right = (sign(key, "msg_1", NOW_S, BODY) for key in (OTHER_KEY, KEY))
    for shown in ([wrong, right], [right, wrong], ["v1a,b2xk", right], ["v2,AAAA", right]):
        assert verify([KEY], headers(*shown), BODY, NOW_S) == "msg_1"
    with pytest.raises(Refused):
        verify([KEY], headers(wrong, wrong), BODY, NOW_S)


def test_every_changed_bit_is_seen() -> None:
    """Of the body, the id, the time and the signature."""
    shown = signed()
    for place in range(len(BODY) * 8):
        changed = bytearray(BODY)
        changed[place // 8] ^= 1 << place % 8
        with pytest.raises(Refused):
            verify([KEY], shown, bytes(changed), NOW_S)
    for other in ({"webhook-id": "msg_0"}, {"webhook-timestamp": str(NOW_S + 1)}):
        with pytest.raises(Refused):
            verify([KEY], shown | other, BODY, NOW_S)
    signature = webhook_signature._signatures(shown["webhook-signature"])[0]
    for place in range(len(signature) * 8):
        other_signature = bytearray(signature)
        other_signature[place // 8] ^= 1 << place % 8
        encoded = base64.b64encode(bytes(other_signature)).decode()
        with pytest.raises(Refused):
            verify([KEY], headers(f"v1,{encoded}"), BODY, NOW_S)


def test_the_same_json_in_other_bytes_is_refused() -> None:
    again = json.dumps(json.loads(BODY), separators=(",", ":")).encode()
    assert json.loads(again) == json.loads(BODY)
    with pytest.raises(Refused):
        verify([KEY], signed(), again, NOW_S)


def test_a_body_that_is_no_text_is_signed_all_the_same() -> None:
    body = b"\xff\xfe\x00"
    assert verify([KEY], signed(body=body), body, NOW_S) == "msg_1"


@pytest.mark.parametrize(
    ("changed", "header"),
    [
        ({"webhook-id": ""}, "webhook-id"),
        ({"webhook-id": "a" * 256}, "webhook-id"),
        ({"webhook-id": "a b"}, "webhook-id"),
        ({"webhook-id": "é"}, "webhook-id"),
        ({"webhook-timestamp": ""}, "webhook-timestamp"),
        ({"webhook-timestamp": "now"}, "webhook-timestamp"),
        ({"webhook-timestamp": f"{NOW_S}.0"}, "webhook-timestamp"),
        ({"webhook-timestamp": "-1"}, "webhook-timestamp"),
        ({"webhook-timestamp": "nan"}, "webhook-timestamp"),
        ({"webhook-timestamp": "٣"}, "webhook-timestamp"),
        ({"webhook-timestamp": "9" * 400}, "webhook-timestamp"),
        ({"webhook-signature": ""}, "webhook-signature"),
        ({"webhook-signature": "v1"}, "webhook-signature"),
        ({"webhook-signature": "v1,***"}, "webhook-signature"),
        ({"webhook-signature": "v1,é"}, "webhook-signature"),
        ({"webhook-signature": "v2,AAAA"}, "webhook-signature"),
        ({"webhook-signature": "v1,AAAA " * SIGNATURES_MAX + "v1,AAAA"}, "webhook-signature"),
    ],
)
def test_a_header_of_another_form_is_named(changed: dict[str, str], header: str) -> None:
    with pytest.raises(Malformed) as raised:
        verify([KEY], signed() | changed, BODY, NOW_S)
    assert raised.value.header == header


def test_an_empty_signature_is_refused() -> None:
    with pytest.raises(Refused):
        verify([KEY], headers("v1,"), BODY, NOW_S)


def test_digests_are_compared_in_constant_time_and_all_of_them() -> None:
    """By the code: nothing but compare_digest looks at one, and no loop ends at the first match."""
    tree = ast.parse(inspect.getsource(webhook_signature.verify))
    compared = [
        name.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare)
        for name in ast.walk(node)
        if isinstance(name, ast.Name)
    ]
    assert not {"expected", "signature"} & set(compared)
    calls = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert calls.count("hmac.compare_digest") == 1
    for loop in (node for node in ast.walk(tree) if isinstance(node, ast.For)):
        assert not any(isinstance(n, ast.Break | ast.Return | ast.Raise) for n in ast.walk(loop))
