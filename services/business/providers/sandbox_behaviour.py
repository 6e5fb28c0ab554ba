"""What the sandbox provider does for each test card and token, and the brown-outs it can play."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final, Literal

import msgspec

from services.business.providers.sandbox_webhooks import Mode

# Longer than the 3 s a caller waits (TERCET_PROVIDER_TIMEOUT_MS), so that a slow charge is one
# whose outcome the caller has to find out.
SLOW_ANSWER_MS: Final = 5000
# A pending charge is decided after this: long enough to be seen pending, short enough to watch.
PENDING_MS: Final = 3000
# Nobody comes back to a page of his bank after this; the order's stock is held no longer either.
CHALLENGE_MS: Final = 900_000
CHALLENGE_DECLINED: Final = "authentication_failed"


class Delivery(StrEnum):
    """How an answer reaches the caller, and whether the charge is in the ledger by then."""

    PROMPT = "prompt"
    SLOW = "slow"
    DROP_AFTER_CHARGE = "drop_after_charge"
    ERROR_AFTER_CHARGE = "error_after_charge"
    ERROR = "error"
    HANG = "hang"
    REFUSE = "refuse"
    RATE_LIMIT = "rate_limit"

    @property
    def charges(self) -> bool:
        return self not in (Delivery.ERROR, Delivery.HANG, Delivery.REFUSE, Delivery.RATE_LIMIT)


@dataclass(frozen=True, slots=True)
class OperationScript:
    """What becomes of captures, voids and refunds of a charge."""

    outcome: Literal["approved", "declined", "pending"] = "approved"
    becomes: Literal["approved", "declined"] | None = None
    delivery: Delivery = Delivery.PROMPT


OPERATIONS_APPROVED: Final = OperationScript()


@dataclass(frozen=True, slots=True)
class Script:
    """One scripted behaviour: the token and the test card that ask for it, and what happens."""

    token: str
    card_number: str
    happens: str
    outcome: Literal["approved", "declined", "pending"] = "approved"
    decline_code: str | None = None
    becomes: Literal["approved", "declined"] | None = None
    delivery: Delivery = Delivery.PROMPT
    errors_first: int = 0
    challenges: bool = False  # pending until the customer has answered on the sandbox's page
    operations: OperationScript | None = None  # what is done with the charge later; else approved


# The first numbers are those that payment processors publish for these outcomes; the ones from
# 4000 0000 0000 5001 on are this sandbox's own. All pass the Luhn check, none belongs to anybody.
SCRIPTS: Final = (
    Script("tok_approve", "4242424242424242", "Approved at once."),
    Script(
        "tok_decline",
        "4000000000000002",
        "Declined at once: card_declined.",
        outcome="declined",
        decline_code="card_declined",
    ),
    Script(
        "tok_decline_funds",
        "4000000000009995",
        "Declined at once: insufficient_funds.",
        outcome="declined",
        decline_code="insufficient_funds",
    ),
    Script(
        "tok_decline_expired",
        "4000000000000069",
        "Declined at once: expired_card.",
        outcome="declined",
        decline_code="expired_card",
    ),
    Script(
        "tok_slow",
        "4000000000005001",
        "Charged at once, but the answer comes later than the caller waits.",
        delivery=Delivery.SLOW,
    ),
    Script(
        "tok_pending",
        "4000000000005019",
        "Pending; approved a few seconds later.",
        outcome="pending",
        becomes="approved",
    ),
    Script(
        "tok_pending_decline",
        "4000000000005027",
        "Pending; declined a few seconds later: card_declined.",
        outcome="pending",
        becomes="declined",
        decline_code="card_declined",
    ),
    Script(
        "tok_drop_after_charge",
        "4000000000005035",
        "Charged, then the connection is closed without an answer.",
        delivery=Delivery.DROP_AFTER_CHARGE,
    ),
    Script(
        "tok_error_after_charge",
        "4000000000005043",
        "Charged, then answered with 500.",
        delivery=Delivery.ERROR_AFTER_CHARGE,
    ),
    Script(
        "tok_hang",
        "4000000000005050",
        "Never answered, never charged.",
        delivery=Delivery.HANG,
    ),
    Script(
        "tok_error",
        "4000000000005068",
        "Answered with 500 each time, never charged.",
        delivery=Delivery.ERROR,
    ),
    Script(
        "tok_error_then_success",
        "4000000000005076",
        "Answered with 500 and not charged the first time; approved when asked again.",
        errors_first=1,
    ),
    Script(
        "tok_challenge",
        "4000000000005084",
        "Pending until the customer has approved or declined on the page of its next_action.",
        outcome="pending",
        becomes="declined",
        decline_code=CHALLENGE_DECLINED,
        challenges=True,
    ),
    Script(
        "tok_operations_slow",
        "4000000000005100",
        "Approved; what is done with it later is done, and answered too late.",
        operations=OperationScript(delivery=Delivery.SLOW),
    ),
    Script(
        "tok_operations_drop",
        "4000000000005118",
        "Approved; what is done with it later is done, and the connection closed.",
        operations=OperationScript(delivery=Delivery.DROP_AFTER_CHARGE),
    ),
    Script(
        "tok_operations_error",
        "4000000000005126",
        "Approved; what is done with it later is done, and answered with 500.",
        operations=OperationScript(delivery=Delivery.ERROR_AFTER_CHARGE),
    ),
    Script(
        "tok_operations_hang",
        "4000000000005134",
        "Approved; what is done with it later is never answered, never done.",
        operations=OperationScript(delivery=Delivery.HANG),
    ),
    Script(
        "tok_operations_decline",
        "4000000000005142",
        "Approved; what is done with it later is declined: operation_declined.",
        operations=OperationScript("declined"),
    ),
    Script(
        "tok_operations_pending",
        "4000000000005159",
        "Approved; what is done with it later is pending, and done after a while.",
        operations=OperationScript("pending", "approved"),
    ),
    Script(
        "tok_operations_pending_decline",
        "4000000000005167",
        "Approved; what is done with it later is pending, and declined after a while.",
        operations=OperationScript("pending", "declined"),
    ),
)
BY_TOKEN: Final = {script.token: script for script in SCRIPTS}
BY_CARD_NUMBER: Final = {script.card_number: script for script in SCRIPTS}


WEBHOOK_DELAY_MS: Final = 5000  # later than anybody waits for an answer
AMOUNT_OFF_MAX: Final = 10**9


class Behaviour(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The brown-out being played: for which share of the calls, for how long, with which delays.

    A mode other than normal takes the place of the script's own delivery, of a charge and of a
    capture, void or refund. With `lookups` it also holds for GET of one of them. A restart of the
    process ends it.
    webhooks is how those of charges made meanwhile are sent; tells_…: what is said of them, to
    callers and by webhooks, in place of what was charged.
    """

    mode: Literal[
        "normal",
        "slow",
        "drop_after_charge",
        "error_after_charge",
        "error",
        "hang",
        "refuse",
        "rate_limit",
    ] = "normal"
    share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0
    seed: int = 0
    for_s: Annotated[float, msgspec.Meta(gt=0, le=86400)] | None = None
    lookups: bool = False
    delay_ms: Annotated[int, msgspec.Meta(ge=0, le=600_000)] = SLOW_ANSWER_MS
    pending_ms: Annotated[int, msgspec.Meta(ge=0, le=600_000)] = PENDING_MS
    challenge_ms: Annotated[int, msgspec.Meta(ge=0, le=3_600_000)] = CHALLENGE_MS
    webhooks: Mode = "normal"
    webhook_delay_ms: Annotated[int, msgspec.Meta(ge=0, le=86_400_000)] = WEBHOOK_DELAY_MS
    tells_minor_more: Annotated[int, msgspec.Meta(ge=-AMOUNT_OFF_MAX, le=AMOUNT_OFF_MAX)] = 0
    tells_currency: Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{3}\Z")] | None = None


class BrownOut:
    """Decides call by call whether the brown-out hits; the same seed makes the same decisions."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        # Repeatable, not secret.
        self._random = random.Random(behaviour.seed)  # noqa: S311  # nosec B311
        self.chance = random.Random(behaviour.seed)  # noqa: S311  # nosec B311
        self._ends_at = None if behaviour.for_s is None else time.monotonic() + behaviour.for_s

    def current(self) -> Behaviour:
        """The behaviour in force; normal once its time is over, with the delays kept."""
        if self._ends_at is not None and time.monotonic() >= self._ends_at:
            delays = {
                name: getattr(self.behaviour, name)
                for name in ("delay_ms", "pending_ms", "challenge_ms", "webhook_delay_ms")
            }
            return Behaviour(**delays)
        return self.behaviour

    def strikes(self) -> Delivery | None:
        """The delivery that this call gets instead of its script's; None leaves it alone."""
        behaviour = self.current()
        if behaviour.mode == "normal" or self._random.random() >= behaviour.share:
            return None
        return Delivery(behaviour.mode)
