"""What the client of the request being served has seen, and sees by it.

A request has one session, in its context as its deadline is. What is read of a customer's own is
not older than the session needs; what is read or written makes it see more, and the answer says so.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final
from uuid import UUID

from services.consistency import UNKNOWN, Seen

NOTHING: Final = Seen(0, 0)


class Session:
    """needed: what its client says that it has seen. seen: what it has, once it was answered.

    customer_id: whose it is; of a guest once he is made.
    """

    __slots__ = ("customer_id", "needed", "seen")

    def __init__(self, needed: Seen = NOTHING, customer_id: UUID | None = None) -> None:
        self.needed = needed
        self.customer_id = customer_id
        self.seen = NOTHING

    def saw(self, seen: Seen) -> None:
        """It was shown something, or wrote something, that is at this place in the WAL."""
        self.seen = max(self.seen, seen)

    def lost_sight(self) -> None:
        """It may have written something, and where is not known: it is read from the primary."""
        self.seen = UNKNOWN


# Without one nothing is noted: workers, and requests of nobody.
current_session: ContextVar[Session | None] = ContextVar("current_session", default=None)
