"""The invariants of the data, each as a query that finds what breaks it, in one snapshot.

Every rule has a sentence, a count of what was looked at, and a query whose rows are the
violations. A part that adds a table adds its rules to those of its area.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final, NamedTuple

from services.data.analytics_rules import ANALYTICS_RULES
from services.data.ledger_rules import LEDGER_RULES
from services.data.message_rules import MESSAGE_RULES
from services.data.order_rules import ORDER_RULES
from services.data.payment_rules import PAYMENT_RULES
from services.data.rules import Rule
from services.data.sources import Primary

VIOLATIONS_SHOWN: Final = 20
FEW: Final = " limit $1"  # a rule may be broken by every row of a large table

RULES: Final = (*ORDER_RULES, *PAYMENT_RULES, *LEDGER_RULES, *MESSAGE_RULES, *ANALYTICS_RULES)


class Finding(NamedTuple):
    """broken: up to VIOLATIONS_SHOWN rows that break the rule, as text, and if there are more."""

    rule: Rule
    checked_count: int
    broken: list[str]


async def find_violations(
    primary: Primary, rules: tuple[Rule, ...] = RULES
) -> AsyncIterator[Finding]:
    """Check rule by rule, all against the same snapshot, while the shop goes on."""
    async with primary.transaction("repeatable read, read only") as tx:
        for rule in rules:
            checked_count = int(await tx.fetchval(rule.checked))
            rows = await tx.fetch(rule.broken + FEW, VIOLATIONS_SHOWN + 1)
            shown = [_text(row) for row in rows[:VIOLATIONS_SHOWN]]
            more = ["and more"] if len(rows) > VIOLATIONS_SHOWN else []
            yield Finding(rule, checked_count, shown + more)


def _text(row: object) -> str:
    return ", ".join(f"{name} {value}" for name, value in dict(row).items())  # type: ignore[call-overload]  # a Record is a mapping
