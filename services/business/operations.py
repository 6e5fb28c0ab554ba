"""Operations on many rows: what requests hand in one by one, and one transaction does for all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from services.data.batch import Batcher

if TYPE_CHECKING:
    from services.business.shop import Shop

Row = TypeVar("Row")
Out = TypeVar("Out")

# Answers of a batch are made without a pause: more of them would keep the loop from everybody else
# for longer than a page takes.
OPERATION_ROWS_MAX: Final = 100
ROW_BYTES: Final = 500  # about what a payment and its neighbours are in a statement


@dataclass(frozen=True)
class Operation(Generic[Row, Out]):
    """A whole operation of business, set-wise; the fields are those of Batcher.

    work(shop, rows, patient) is one transaction and returns an outcome for each row, in order.
    """

    name: str
    work: Callable[[Shop, Sequence[Row], bool], Awaitable[Sequence[Out | Exception]]]
    key_of: Callable[[Row], Hashable | None]
    names_of: Callable[[Row], Iterable[str]] = lambda _: ()
    repeated: Callable[[Out], Out | Exception] = lambda outcome: outcome
    size_of: Callable[[Row], int] = lambda _: ROW_BYTES
    rows_max: int = OPERATION_ROWS_MAX
    lanes: int = 1

    def open(self, shop: Shop) -> Batcher[Row, Out]:
        async def work(rows: Sequence[Row], patient: bool) -> Sequence[Out | Exception]:
            return await self.work(shop, rows, patient)

        return Batcher(
            self.name,
            work,
            lanes=self.lanes,
            key_of=self.key_of,
            repeated=self.repeated,
            names_of=self.names_of,
            size_of=self.size_of,
            rows_max=self.rows_max,
        )
