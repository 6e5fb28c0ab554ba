"""Problems: what RFC 9457 asks for, and that nothing else of us is told."""

from __future__ import annotations

import orjson
import pytest

from services.problems import (
    PROBLEM_JSON,
    InternalError,
    InvalidBody,
    MethodNotAllowed,
    OutcomeUnknown,
    OutOfStock,
    Problem,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
    catalogue,
)


def made(kind: type[Problem]) -> Problem:
    return kind()


@pytest.mark.parametrize("kind", catalogue(), ids=lambda kind: kind.name)
def test_every_problem_has_a_type_a_title_and_the_status_it_is_sent_with(
    kind: type[Problem],
) -> None:
    problem = made(kind)
    body = orjson.loads(problem.body("request-1"))
    assert body["type"] == f"/problems/{kind.name}"
    assert body["title"] == kind.title
    assert body["status"] == kind.status
    assert body["request_id"] == "request-1"
    assert problem.headers()["content-type"] == PROBLEM_JSON
    assert problem.headers()["cache-control"] == "no-store"
    assert 400 <= kind.status < 600
    assert kind.__doc__


def test_names_and_titles_tell_problems_apart() -> None:
    kinds = catalogue()
    assert InternalError in kinds
    assert Problem not in kinds
    assert len({kind.name for kind in kinds}) == len(kinds)
    assert len({kind.title for kind in kinds}) == len(kinds)
    assert [kind.status for kind in kinds] == sorted(kind.status for kind in kinds)


def test_members_without_a_value_are_left_out() -> None:
    assert orjson.loads(OutOfStock().body()) == {
        "type": "/problems/out-of-stock",
        "title": "There is not enough stock",
        "status": 409,
    }


def test_errors_name_fields_and_extensions_stand_beside() -> None:
    problem = InvalidBody("Two.", errors=[{"field": "/a", "detail": "is wrong"}], limit=7)
    body = orjson.loads(problem.body())
    assert body["errors"] == [{"field": "/a", "detail": "is wrong"}]
    assert (body["detail"], body["limit"]) == ("Two.", 7)
    assert str(problem) == "Two."


def test_headers_say_when_to_come_back_how_to_log_in_and_what_is_allowed() -> None:
    assert TooManyRequests(retry_after_s=3).headers()["retry-after"] == "3"
    assert "retry-after" not in Unavailable().headers()
    assert OutcomeUnknown().headers()["retry-after"] == "1"
    assert Unauthenticated().headers()["www-authenticate"] == 'Bearer realm="tercet"'
    assert MethodNotAllowed(headers={"allow": "GET"}).headers()["allow"] == "GET"


def test_an_internal_error_tells_nothing_but_the_request() -> None:
    body = orjson.loads(InternalError().body("request-1"))
    assert set(body) == {"type", "title", "status", "request_id"}
