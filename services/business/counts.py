"""What became of the requests to business, counted in plain numbers that a scrape reads later."""

from __future__ import annotations

from typing import Final

from services.data.log_reader import LogLag
from services.data.mails import MailsWaiting
from services.data.outbox import Lag
from services.histogram import Histogram

OTHER: Final = "other"  # the document and its pages, health, pictures, and what leads nowhere


class Tally:
    """One route: how many answers by hundreds of the status, and how long they took."""

    __slots__ = ("answered", "took")

    def __init__(self) -> None:
        self.answered = [0] * 6  # [4] is the number of answers with 4xx; [0]: left unanswered
        self.took = Histogram()


class Counts:
    """The tallies of a process."""

    def __init__(self) -> None:
        self.routes: dict[str, Tally] = {}
        self.degraded: dict[str, int] = {}  # parts that a product page was sent without
        self.handed_over_total = 0  # tasks that were to outlive their request
        self.escalated_total = 0  # payments and operations that the provider says nothing of
        self.orphans_found_total = 0  # charges at the provider that stand for no payment
        self.orphans_returned_total = 0
        self.live_watched: int | None = None  # topics, of the live worker that tells; else None
        self.logins_total = 0
        self.logins_refused_total = 0  # a wrong password, or an address without an account
        self.logins_throttled_total = 0  # too many tries: the password was not looked at
        self.mails_sent_total = 0
        self.mails_waiting: MailsWaiting | None = None  # as the worker counted them last
        self.events_counted_total = 0  # of the log: late, ahead and duplicates included
        self.events_lag: LogLag | None = None  # as this rollups worker measured it last
        self.outbox_lag: Lag | None = None  # as the relay measured it last; of no other process

    def answered(self, route: str, status: int, took_s: float) -> None:
        """route: the path with its parameters in braces. status 0: its client left first."""
        tally = self.routes.get(route)
        if tally is None:
            tally = self.routes[route] = Tally()
        tally.answered[status // 100] += 1
        tally.took.add(took_s)

    def left_out(self, part: str) -> None:
        self.degraded[part] = self.degraded.get(part, 0) + 1
