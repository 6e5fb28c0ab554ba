"""The sandbox's own ledger as it answers it: pages of charges and of operations."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final

import msgspec

from services.business.provider import Amount, ChargeLine, Kind, Listed, OperationLine, Status

LIST_LINES: Final = 200  # of at most 1 KB each: a page is made and read in some milliseconds
LIST_MAX_BYTES: Final = 400_000

Key = Annotated[str, msgspec.Meta(pattern=r"^[\x20-\x7e]{1,255}\Z")]
Minor = Annotated[int, msgspec.Meta(ge=0, le=10**15)]
Code = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z]{1,8}\Z")]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class ListedCharge(msgspec.Struct, frozen=True):
    """A charge in GET /charges; what has another form is not believed, nor is its page."""

    charge_id: Key
    charge_key: Key
    status: Status
    amount_minor: Minor
    currency: Code
    created_at: Moment
    capture: bool
    captured_minor: Minor
    refunded_minor: Minor
    voided: bool


class ListedOperation(msgspec.Struct, frozen=True):
    """A capture, void or refund in GET /operations."""

    operation_id: Key
    operation_key: Key
    charge_key: Key
    kind: Kind
    status: Status
    amount_minor: Minor
    currency: Code
    created_at: Moment


class ChargePage(msgspec.Struct, frozen=True):
    items: list[ListedCharge]
    next_cursor: Key | None


class OperationPage(msgspec.Struct, frozen=True):
    items: list[ListedOperation]
    next_cursor: Key | None


def charges_in(body: bytes) -> Listed[ChargeLine]:
    """Raises msgspec.MsgspecError for what is no page of charges."""
    page = msgspec.json.decode(body, type=ChargePage)
    return Listed([_charge_line(item) for item in page.items], page.next_cursor)


def operations_in(body: bytes) -> Listed[OperationLine]:
    """Raises msgspec.MsgspecError for what is no page of operations."""
    page = msgspec.json.decode(body, type=OperationPage)
    return Listed([_operation_line(item) for item in page.items], page.next_cursor)


def charge_in(body: bytes, charge_key: str) -> ChargeLine:
    """Raises msgspec.MsgspecError and ValueError for what is not this charge."""
    charge = msgspec.json.decode(body, type=ListedCharge)
    if charge.charge_key != charge_key:
        raise ValueError("the provider speaks of something else")
    return _charge_line(charge)


def _charge_line(item: ListedCharge) -> ChargeLine:
    return ChargeLine(
        item.charge_key,
        item.charge_id,
        item.status,
        Amount(item.amount_minor, item.currency),
        item.capture,
        item.captured_minor,
        item.refunded_minor,
        item.voided,
        item.created_at,
    )


def _operation_line(item: ListedOperation) -> OperationLine:
    return OperationLine(
        item.operation_key,
        item.operation_id,
        item.charge_key,
        item.kind,
        item.status,
        Amount(item.amount_minor, item.currency),
        item.created_at,
    )
