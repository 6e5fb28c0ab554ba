"""What a request shows of who sends it."""

from __future__ import annotations

import pytest

from services.access.claims import NOBODY, Claim, claim_of, guest_digest, session_cookie
from services.problems import InvalidRequest, Unauthenticated

PLAIN = session_cookie(secure=False)
A, B = b"a" * 43, b"b" * 43


@pytest.mark.parametrize(
    ("cookies", "token"),
    [
        ([], None),
        ([b"theme=dark"], None),
        ([b"tercet_customer=" + A], A),
        ([b"theme=dark; tercet_customer=" + A + b" ; x=y"], A),
        ([b"theme=dark", b"tercet_customer=" + A], A),
        ([b'tercet_customer="' + A + b'"'], A),
        ([b"tercet_customer=" + A + b"; tercet_customer=" + B], A),
        ([b"xtercet_customer=" + A], None),
        ([b"tercet_customerx=" + A], None),
        ([b"TERCET_CUSTOMER=" + A], None),
        ([b"tercet_customer=" + A + b"; tercet_session=" + B], B),
        ([b"tercet_session=" + B, b"tercet_customer=" + A], B),
        ([b"__Host-tercet_session=" + B + b"; tercet_customer=" + A], A),
        ([b"tercet_session=; tercet_customer=" + A], b""),
    ],
)
def test_a_cookie_is_found(cookies: list[bytes], token: bytes | None) -> None:
    assert claim_of([], cookies, PLAIN) == Claim(token, bearer=False)


def test_a_secure_session_is_found_by_its_own_name_only() -> None:
    name = session_cookie(secure=True)
    assert name == b"__Host-tercet_session"
    assert claim_of([], [b"__Host-tercet_session=" + A], name) == Claim(A, bearer=False)
    assert claim_of([], [b"tercet_session=" + A], name) == NOBODY


def test_a_bearer_token_comes_before_every_cookie() -> None:
    cookies = [b"tercet_session=" + B + b"; tercet_customer=" + B]
    assert claim_of([b"Bearer " + A], cookies, PLAIN) == Claim(A, bearer=True)


@pytest.mark.parametrize("value", [b"Basic YTpi", b"", b"Token " + A, A, b"Digest x"])
def test_another_scheme_is_none(value: bytes) -> None:
    with pytest.raises(Unauthenticated):
        claim_of([value], [], PLAIN)


def test_two_authorizations_are_one_too_many() -> None:
    with pytest.raises(InvalidRequest):
        claim_of([b"Bearer " + A] * 2, [], PLAIN)


def test_a_guest_is_named_by_the_hash_of_a_token_that_can_be_one() -> None:
    assert guest_digest([b"tercet_customer=" + A]) is not None
    assert guest_digest([b"tercet_session=" + A]) is None
    for token in (b"", A[1:], A + b"a", A[1:] + b"!", A[1:] + b"\n"):
        assert guest_digest([b"tercet_customer=" + token]) is None
