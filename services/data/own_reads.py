"""Reads of what belongs to one customer: on a standby, never older than what he has seen.

docs/decisions/0018-read-your-own-writes.md has the rules, and what they do not promise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from services.consistency import Seen
from services.data.link import Record
from services.data.replay import Replay, first_to_replay
from services.data.session import Session, current_session
from services.data.sources import Replica, Source
from services.problems import GatewayTimeout, Unavailable
from services.telemetry import logger

if TYPE_CHECKING:
    from services.data.db import Database

log = logger(__name__)

WAIT_S: Final = 0.02  # twenty times what replay usually takes; longer is slower than the primary


class OwnReads:
    """Which server answers a customer: a standby that has replayed what he has seen, else the
    primary.

    waits: reads that had to wait for a standby; waits_in_vain: of these, went to the primary after
    all. misses: reads that found nothing on a standby, and were asked of the primary again.
    at_standby, at_primary: reads by who answered them, for whatever reason.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._replays = {replica: Replay(replica) for replica in database.replicas}
        self.waits = 0
        self.waits_in_vain = 0
        self.misses = 0
        self.at_standby = 0
        self.at_primary = 0

    @property
    def questions(self) -> int:
        """How often standbys were asked how far they are."""
        return sum(replay.questions for replay in self._replays.values())

    async def fetchrow(self, sql: str, *args: object) -> Record | None:
        """One row, the last column of which is `position`, that of the server which answered; None
        where the primary has none either.

        A standby's "there is none" is not believed: who follows a link to an order that he placed
        with another device has no token, and must not be told that it does not exist.
        """
        session = current_session.get() or Session()
        row = await self._from_standbys(session.needed, sql, *args)
        if row is None:
            row = await self._from_primary(session.needed, sql, *args)
        if row is not None:
            session.saw(Seen(self._database.timeline, row["position"]))
        return row

    async def source_at(self, position: int) -> Source:
        """A standby that has replayed a position of the primary's, else the primary."""
        standbys = await self._standbys(position)
        return standbys[0] if standbys else self._database.primary

    async def _from_standbys(self, needed: Seen, sql: str, *args: object) -> Record | None:
        if needed.timeline not in (0, self._database.timeline):
            return None  # positions of two timelines do not compare
        for standby in await self._standbys(needed.position):
            try:
                row = await standby.fetchrow(sql, *args)
            except (Unavailable, GatewayTimeout) as error:
                log.warning("read failed over", source=standby.name, error=repr(error))
                continue
            if row is None:
                self.misses += 1
                return None
            # By its own word: it may have been made anew since it was asked.
            if row["position"] >= needed.position:
                standby.position = max(standby.position, row["position"])
                self.at_standby += 1
                return row
        return None

    async def _standbys(self, position: int) -> list[Replica]:
        """Standbys that have replayed the position, best first; waits for one if none has."""
        there = [one for one in self._database.readers(position) if isinstance(one, Replica)]
        if there or not position:
            return there
        soon = [
            self._replays[one]
            for one in self._database.readers()
            # Who is known to be later than the wait is not waited for.
            if isinstance(one, Replica) and (one.lag_ms or 0.0) <= WAIT_S * 1000
        ]
        if not soon:
            return []
        self.waits += 1
        found = await first_to_replay(soon, position, within_s=WAIT_S)
        if found is None:
            self.waits_in_vain += 1
            return []
        return [found]

    async def _from_primary(self, needed: Seen, sql: str, *args: object) -> Record | None:
        self.at_primary += 1
        # Not as a stand-in for a standby: the pool keeps places for who has bought something, and
        # pages of lost standbys must not take them.
        row = await self._database.primary.fetchrow(sql, *args)
        same_timeline = needed.timeline == self._database.timeline
        if row is not None and same_timeline and row["position"] < needed.position:
            log.error("the primary is behind a client", position=row["position"])
            raise Unavailable(retry_after_s=1)  # a server that was the primary
        return row
