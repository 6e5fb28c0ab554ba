"""What `tercet prove` holds of the provider's own books: rules of two books, as data/proofs.py."""

from __future__ import annotations

from typing import Final, NamedTuple

from services.business.matching import Difference, Reason
from services.business.provider import PaymentProvider
from services.business.provider_books import Comparison, compare_books
from services.data.proofs import VIOLATIONS_SHOWN
from services.data.sources import Reader


class ProviderRule(NamedTuple):
    """reasons: the differences that break it, of charges or of operations; none: all others."""

    area: str
    sentence: str
    subject: str
    reasons: frozenset[Reason]


TAKEN: Final = (
    "every charge that took money is a successful payment, or an orphan that is written down"
)
THERE: Final = "every successful payment is a charge at the provider"
ONCE: Final = "no payment was charged twice"
SAME: Final = "charges and payments agree: amount, currency, captured, refunded, voided"
OPERATIONS: Final = "captures, voids and refunds agree, there and here"

# An orphan that is being given back is no violation: `tercet reconcile --report` lists it.
PROVIDER_RULES: Final = (
    ProviderRule("provider", TAKEN, "charge", frozenset(("not ours", "contradicted"))),
    ProviderRule("provider", THERE, "charge", frozenset(("not there",))),
    ProviderRule("provider", ONCE, "charge", frozenset(("twice",))),
    ProviderRule(
        "provider",
        SAME,
        "charge",
        frozenset(
            ("amount", "currency", "status", "reference", "captured", "refunded", "voided", "kind")
        ),
    ),
    ProviderRule("provider", OPERATIONS, "operation", frozenset()),
)


class ProviderFinding(NamedTuple):
    """As Finding of data/proofs.py."""

    rule: ProviderRule
    checked_count: int
    broken: list[str]


async def prove_books(
    provider: PaymentProvider, reader: Reader, *, timeout_s: float
) -> list[ProviderFinding]:
    """Check every rule, while the shop goes on. Raises BooksUnanswered.

    What has changed since the provider was asked is in flight, and nothing else.
    """
    comparison = Comparison()
    broken: dict[str, list[str]] = {rule.sentence: [] for rule in PROVIDER_RULES}
    async for one in compare_books(provider, reader, comparison, grace_s=0, timeout_s=timeout_s):
        if one.in_flight:
            continue
        for rule in PROVIDER_RULES:
            rows = broken[rule.sentence]
            if _breaks(one, rule) and len(rows) <= VIOLATIONS_SHOWN:
                rows.append(one.text() if len(rows) < VIOLATIONS_SHOWN else "and more")
    counts = {
        subject: sum(of.count for (what, _, _), of in comparison.sums.items() if what == subject)
        for subject in ("charge", "operation")
    }
    return [
        ProviderFinding(rule, counts[rule.subject], broken[rule.sentence])
        for rule in PROVIDER_RULES
    ]


def _breaks(one: Difference, rule: ProviderRule) -> bool:
    return one.subject == rule.subject and (not rule.reasons or one.reason in rule.reasons)
