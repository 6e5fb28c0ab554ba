"""What Schemathesis is told about this API that its OpenAPI document can not say."""

from __future__ import annotations

import json
from typing import Any, Final

import schemathesis
from schemathesis.core.failures import Failure
from schemathesis.openapi.checks import RejectedPositiveData

# A body may be all that the schema asks for and still name goods or a token that nobody has.
RULES: Final = ("unknown-variant", "currency-mismatch", "idempotency-key-reused", "token-refused")
# Rules over several fields, or over what is in the shop; each as its problem says it.
SENTENCES: Final = (
    "is not one of this list",
    "there is no such category",
    "relevance needs q",
    "is above max_price",
    "stands on two lines",
    "moves nothing this way",
    "has to be after opens_at",
    "takes an order of customer_limit units above",
    # Characters after NFC, bytes of UTF-8, and a list: no schema says these.
    "must have at least 8 characters",
    "must have at most 1024 bytes",
    "is one of the most common passwords",
    # 16.0 is an integer to JSON Schema; here a quantity is one spelling of one number.
    "Input should be a valid integer",
)


@schemathesis.hook
def filter_failure(
    context: schemathesis.HookContext,
    failure: Failure,
    case: schemathesis.Case[Any],
    response: schemathesis.Response,
) -> bool:
    """Whether a failure counts: all do, but valid data refused by a rule that is listed here."""
    return not (isinstance(failure, RejectedPositiveData) and is_rule(json.loads(response.content)))


def is_rule(problem: dict[str, Any]) -> bool:
    if problem["type"].removeprefix("/problems/") in RULES:
        return True
    details = [error["detail"] for error in problem.get("errors", [])]
    return bool(details) and all(any(rule in detail for rule in SENTENCES) for detail in details)
