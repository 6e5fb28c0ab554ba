"""Matching: a line of the provider's books beside the row of ours, and every way they differ."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from services.business.provider import Amount, ChargeLine, OperationLine
from services.data.booked import BookedOperation, BookedPayment
from services.data.orphan_charges import Orphan

Subject = Literal["charge", "operation"]
Reason = Literal[
    "not ours",  # it stands for nothing in our books
    "given back",  # not ours, known as an orphan, not returned yet
    "contradicted",  # it stands, and our books say finally that it does not
    "not there",  # our books say that it was done, and the provider does not have it
    "twice",
    "amount",
    "currency",
    "status",
    "reference",
    "captured",
    "refunded",
    "voided",
    "kind",
    "payment",
]
LOST: Final = ("FAILED", "ERRORED")
UNSETTLED: Final = ("INIT", "PENDING", "UNKNOWN")
# What these say can not come from looking at two books at different moments.
LASTING: Final = frozenset(("amount", "currency", "kind", "payment", "contradicted", "not ours"))


class Difference(NamedTuple):
    """One way in which the books differ. key: our id; reference: the provider's.

    in_flight: it is not settled yet, or was too short a time ago to be sure.
    """

    subject: Subject
    reason: Reason
    key: str
    reference: str
    ours: str
    theirs: str
    amount: Amount
    in_flight: bool = False

    def text(self) -> str:
        sides = f"ours {self.ours}, theirs {self.theirs}"
        amount = f"{self.amount.amount_minor} {self.amount.currency}"
        return f"{self.subject} {self.key} ({self.reference}) {amount}: {self.reason}: {sides}"


def has_money(line: ChargeLine) -> bool:
    """Whether the charge took money or keeps a card's money blocked, and did not let go of it."""
    return line.status == "approved" and not line.voided and not gave_all_back(line)


def gave_all_back(line: ChargeLine) -> bool:
    return 0 < line.captured_minor <= line.refunded_minor


def compare_charge(
    line: ChargeLine, booked: BookedPayment | None, orphan: Orphan | None, *, young_s: float
) -> list[Difference]:
    """What differs between a charge and the payment that it is of; nothing when they match.

    young_s: what changed in our books in so many seconds may not be in what the provider listed.
    """
    if booked is None or booked.state in LOST:
        return _stray(line, booked, orphan)
    found: list[tuple[Reason, object, object]] = [
        ("amount", booked.amount_minor, line.amount.amount_minor),
        ("currency", booked.currency, line.amount.currency),
        ("kind", booked.capture_method == "automatic", line.capture),
    ]
    if booked.state == "SUCCESS":
        found += [
            ("status", "approved", line.status),
            ("reference", booked.charge_id, line.charge_id),
            ("captured", booked.captured_minor, line.captured_minor),
            ("refunded", booked.refunded_minor, line.refunded_minor),
            ("voided", booked.voided, line.voided),
        ]
    open_now = booked.busy or booked.age_s < young_s
    differences = [
        Difference(
            "charge", reason, line.charge_key, line.charge_id, str(ours), str(theirs), line.amount,
            in_flight=open_now and reason not in LASTING,
        )
        for reason, ours, theirs in found if ours != theirs
    ]  # fmt: skip
    if booked.state in UNSETTLED:
        state = (booked.state, line.status)
        differences.append(
            Difference("charge", "status", line.charge_key, line.charge_id, *state, line.amount,
                in_flight=True)
        )  # fmt: skip
    return differences


def _stray(
    line: ChargeLine, booked: BookedPayment | None, orphan: Orphan | None
) -> list[Difference]:
    """A charge that should not be: a difference for as long as there is money in it."""
    if line.status != "pending" and not has_money(line):
        return []
    reason: Reason = "not ours" if booked is None else "contradicted"
    if orphan is not None and orphan.state == "found":
        reason = "given back"
    ours = "no payment" if booked is None else booked.state
    return [
        Difference("charge", reason, line.charge_key, line.charge_id, ours, line.status,
            line.amount)
    ]  # fmt: skip


def missing_charge(booked: BookedPayment, *, young_s: float) -> list[Difference]:
    """What a payment comes to that has no charge in the provider's list."""
    amount = Amount(booked.amount_minor, booked.currency)
    reference = booked.charge_id or "-"
    if booked.state in LOST and booked.charge_id is None:
        return []
    return [
        Difference("charge", "not there", str(booked.payment_id), reference, booked.state,
            "no charge", amount, in_flight=booked.state in UNSETTLED or booked.age_s < young_s)
    ]  # fmt: skip


def compare_operation(
    line: OperationLine, booked: BookedOperation | None, *, young_s: float
) -> list[Difference]:
    """What differs between a capture, void or refund at the provider and the one in our books."""
    if booked is None:
        if line.status == "declined":
            return []
        return [_of_operation(line, "not ours", "no operation", line.status)]
    found: list[tuple[Reason, object, object]] = [
        ("amount", booked.amount_minor, line.amount.amount_minor),
        ("currency", booked.currency, line.amount.currency),
        ("kind", booked.kind, line.kind),
        ("payment", str(booked.payment_id), line.charge_key),
    ]
    differences = [
        _of_operation(line, reason, str(ours), str(theirs))
        for reason, ours, theirs in found
        if ours != theirs
    ]
    if booked.state in UNSETTLED:
        return [*differences, _of_operation(line, "status", booked.state, line.status, True)]
    if booked.state == "SUCCESS" and line.status != "approved":
        young = booked.age_s < young_s
        differences.append(_of_operation(line, "status", booked.state, line.status, young))
    if booked.state == "SUCCESS" and booked.provider_reference != line.operation_id:
        ours = str(booked.provider_reference)
        differences.append(_of_operation(line, "reference", ours, line.operation_id))
    if booked.state in LOST and line.status != "declined":
        differences.append(_of_operation(line, "contradicted", booked.state, line.status))
    return differences


def missing_operation(booked: BookedOperation, *, young_s: float) -> list[Difference]:
    """What an operation comes to that is not in the provider's list."""
    if booked.state in LOST and booked.provider_reference is None:
        return []
    amount = Amount(booked.amount_minor, booked.currency)
    reference = booked.provider_reference or "-"
    return [
        Difference("operation", "not there", str(booked.operation_id), reference, booked.state,
            "no operation", amount, in_flight=booked.state in UNSETTLED or booked.age_s < young_s)
    ]  # fmt: skip


def _of_operation(
    line: OperationLine, reason: Reason, ours: str, theirs: str, in_flight: bool = False
) -> Difference:
    key, reference = line.operation_key, line.operation_id
    return Difference("operation", reason, key, reference, ours, theirs, line.amount, in_flight)
