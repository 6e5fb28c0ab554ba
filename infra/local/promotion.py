"""`tercet promote`: a standby takes the place of the primary, on purpose and only when it may.

For the local stack, where a person decides. What elects in production is in docs/replication.md.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from contextlib import suppress
from typing import Final

from infra.local.cluster import Cluster
from infra.local.node import MAKE_SLOT, PRIMARY_GRACE_S, Node
from infra.local.parts import NotReadyError

STOP_WITHIN_S: Final = 2.0  # a fast shutdown sends the standbys what they lack; 0.2 s were measured
ANSWER_WITHIN_S: Final = 1.0
LOWER_AFTER_S: Final = 2.0  # so long a COMMIT waits for the standby that is being repointed
LOOK_EVERY_S: Final = 0.1

POSITION: Final = """
    select pg_is_in_recovery() as recovery, (greatest(
        coalesce(pg_last_wal_receive_lsn(), '0/0'), coalesce(pg_last_wal_replay_lsn(), '0/0')
    ) - '0/0'::pg_lsn)::bigint as position
"""


class PromotionRefusedError(Exception):
    """No standby may take over; the message says why and what would be lost."""


class Promotion:
    """One change of the primary."""

    def __init__(self, cluster: Cluster, log: logging.Logger, *, force: bool) -> None:
        self._cluster = cluster
        self._log = log
        self._force = force

    async def run(self) -> str:
        """Stop the primary that there is, promote the most advanced standby, repoint the rest.

        Returns what was done. Raises PromotionRefusedError; the primary then goes on as it was.
        """
        cluster = self._cluster
        if not cluster.waits:
            raise PromotionRefusedError(
                "one standby alone is asynchronous, so that its crash stops no write: it may lack "
                "what was acknowledged. Start with --standbys 2"
            )
        async with cluster.changing:
            old = cluster.leader
            with suppress(OSError, NotReadyError):  # it may be dead: then the last look counts
                await asyncio.wait_for(cluster.look_at_standbys(old), ANSWER_WITHIN_S)
            self._require_streaming()
            await _stop(old)
            new = await self._most_advanced()
            if self._force:  # it may be the only copy of what is lost: a person deletes it
                old.data.rename(old.data.with_name(f"{old.name}.before-{int(time.time())}"))
            await self._take_over(old, new)
        return f"{new.name} is the primary now, {old.name} becomes a standby of it"

    def _require_streaming(self) -> None:
        """Refuse before anything is stopped, where nobody may take over."""
        if self._force:
            return
        if not any(seen.streams for seen in self._cluster.seen.values()):
            raise PromotionRefusedError(
                "no standby was streaming when the primary was last seen: what it acknowledged "
                "may be nowhere else. With --force it is lost"
            )
        if self._cluster.alone:
            raise PromotionRefusedError(
                "the primary has been acknowledging alone: wait until a standby streams, or lose "
                "what it has not with --force"
            )

    async def _most_advanced(self) -> Node:
        """The standby that has got the most; each commit was confirmed by one, so it has all."""
        standbys = self._cluster.followers
        positions = await asyncio.gather(*map(_position, standbys))
        known = [
            (position, number) for number, position in enumerate(positions) if position is not None
        ]
        if not known or (len(known) < len(standbys) and not self._force):
            silent = [n.name for n, at in zip(standbys, positions, strict=True) if at is None]
            raise PromotionRefusedError(
                f"{', '.join(silent)} does not answer, and may have confirmed what no other has. "
                "Let it come back, or lose that with --force"
            )
        best = standbys[max(known)[1]]
        seen = self._cluster.seen.get(best.name)
        if not (self._force or (seen and seen.streams)):
            raise PromotionRefusedError(f"{best.name} was not streaming. With --force it is taken")
        return best

    async def _take_over(self, old: Node, new: Node) -> None:
        others = [node for node in self._cluster.followers if node is not new]
        self._cluster.keep(leader=new.name)
        for node in (*others, old):
            await new.ask(MAKE_SLOT, node.slot)
        await new.promote()
        new.needs, old.needs = old.needs, new.needs  # also the order in which they are stopped
        new.stop_grace_s = PRIMARY_GRACE_S
        self._log.info("%s was promoted in place of %s", new.name, old.name)
        for node in others:
            with suppress(OSError, NotReadyError):  # one that is away is told when it starts
                await node.repoint()


async def keep_committing(cluster: Cluster, log: logging.Logger) -> None:
    """After a promotion: have a COMMIT wait for no standby while none streams, not for longer.

    Returns once one streams and every COMMIT waits for it again.
    """
    streamed_at = time.monotonic()
    while True:
        try:
            streaming = await cluster.look_at_standbys(cluster.leader)
            if streaming:
                if cluster.alone:
                    cluster.keep(alone=False)
                    await _apply_names(cluster)
                    log.info("a standby streams: each COMMIT waits for one again")
                return
            if not cluster.alone and time.monotonic() - streamed_at > LOWER_AFTER_S:
                cluster.keep(alone=True)
                await _apply_names(cluster)
                log.warning(
                    "no standby streams from %s: it acknowledges alone until one does",
                    cluster.leader.name,
                )
        except (OSError, NotReadyError) as error:
            log.debug("the primary was not asked: %s", error)
        await asyncio.sleep(LOOK_EVERY_S)


async def _apply_names(cluster: Cluster) -> None:
    await cluster.leader.alter("synchronous_standby_names", cluster.synchronous_names)


async def _position(node: Node) -> int | None:
    """How far it has got, in bytes of WAL; None where it does not say, or is no standby."""
    try:
        row = await asyncio.wait_for(node.ask(POSITION), ANSWER_WITHIN_S)
    except (OSError, NotReadyError):
        return None
    return int(row["position"]) if row["recovery"] else None


async def _stop(node: Node) -> None:
    """End it, in good order if it can: whoever takes over must be the only one that writes."""
    process = node.process
    if process is None or process.poll() is not None:
        return
    process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + STOP_WITHIN_S
    while process.poll() is None and time.monotonic() < deadline:  # noqa: ASYNC110 - a process
        await asyncio.sleep(0.01)
    if process.poll() is None:
        process.kill()
        process.wait()
