"""A server of the cluster: the primary, or a standby that follows it and is made anew when lost."""

from __future__ import annotations

import re
import signal
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from infra.local.addresses import LOOPBACK
from infra.local.parts import NotReadyError
from infra.local.postgres import SUPERUSER, PostgresServer
from infra.local.secret_files import read_secret

if TYPE_CHECKING:
    from infra.local.cluster import Cluster

DROP_SLOT: Final = (
    "select pg_drop_replication_slot(slot_name) from pg_replication_slots"
    " where slot_name = $1 and not active"
)
MAKE_SLOT: Final = (
    "select pg_create_physical_replication_slot($1, true)"
    " where not exists (select from pg_replication_slots where slot_name = $1)"
)
PROMOTE_WITHIN_S: Final = 10
PRIMARY_GRACE_S: Final = 4.0  # it writes out what is changed in memory, and stops last
STANDBY_GRACE_S: Final = 1.5

# What a standby says when its data can never follow this primary again, and a new copy can.
LOST_PATTERN: Final = re.compile(
    rb"requested WAL segment \S+ has already been removed"
    rb"|is ahead of the WAL flush position of this server"
    rb"|database system identifier differs"
    rb"|is behind recovery timeline|is not a child of|forked off current database system timeline"
    rb'|can no longer (?:get changes|access) |replication slot "\w+" has been invalidated'
    rb"|invalid primary checkpoint record|could not locate a valid checkpoint record"
    rb"|PANIC:|incorrect resource manager data checksum|not a valid data directory"
)
SLOT_MISSING_PATTERN: Final = re.compile(rb'replication slot "\w+" does not exist')
REMAKE_AFTER_FAILED_STARTS: Final = 2


@dataclass
class Node(PostgresServer):
    """Which of the two it is, the cluster says: a promotion changes it while it runs."""

    cluster: Cluster = field(kw_only=True)
    _log_start: int = field(default=0, init=False)
    _remake: str = field(default="", init=False)

    @property
    def leads(self) -> bool:
        return self.cluster.leader is self

    @property
    def slot(self) -> str:
        """The name by which a primary keeps for it what it has not got yet."""
        return self.name.replace("-", "_")

    @property
    def configuration(self) -> str:
        # One that was chosen and not promoted yet begins as the standby it is.
        return "primary.conf" if self.leads and not self._is_standby else "standby.conf"

    @property
    def _is_standby(self) -> bool:
        return (self.data / "standby.signal").exists()

    @property
    def conninfo(self) -> str:
        """How it connects to the primary to follow it."""
        return self._conninfo(self.name)

    def _conninfo(self, application: str) -> str:
        return (
            f"host={LOOPBACK} port={self.cluster.leader.port} user=tercet_replication "
            f"passfile='{_quoted(self.passwords_file)}' application_name={application}"
        )

    async def prepare(self) -> None:
        async with self.cluster.changing:  # a promotion decides first what it will be
            leads = self.leads
            self.stop_grace_s = PRIMARY_GRACE_S if leads else STANDBY_GRACE_S
            self.write_passwords()
            self.take_over()
            if leads:
                await self._prepare_primary()
        if not leads:  # a copy takes its time, and may not keep another from being promoted
            await self._prepare_standby()
        self._log_start = self.log_file.stat().st_size if self.log_file.exists() else 0

    async def _prepare_primary(self) -> None:
        if not (self.data / "PG_VERSION").exists():
            await self._make_first()
        self.write_settings({"synchronous_standby_names": self.cluster.synchronous_names})

    async def _make_first(self) -> None:
        first_password = self.folder.run / "superuser_password"
        first_password.touch(mode=0o600)
        first_password.write_text(read_secret(self.folder.secrets, "superuser_password"))
        self.servers.own(first_password)
        try:
            await self.make(
                "initdb",
                f"--username={SUPERUSER}",
                f"--pwfile={first_password}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--no-locale",
                "--no-instructions",
                final=self.data,
            )
        finally:
            first_password.unlink()

    async def _prepare_standby(self) -> None:
        if not (self.data / "PG_VERSION").exists():
            self._remake = self._remake or "there is none yet"
        elif not self._is_standby:
            self._remake = "the one there was the primary before"
        if self._remake:
            await self._make_copy()
        self.write_settings(
            {
                "primary_conninfo": self.conninfo,
                "primary_slot_name": self.slot,
                # For the day it is promoted.
                "synchronous_standby_names": self.cluster.synchronous_names,
            }
        )

    async def _make_copy(self) -> None:
        self._say(f"a fresh copy of the primary is being made: {self._remake}")
        await self.cluster.leader.check()
        await self.make_slot_at_primary(anew=True)
        await self.make(
            "pg_basebackup",
            "--write-recovery-conf",
            f"--slot={self.slot}",
            "--wal-method=stream",
            "--checkpoint=fast",
            "--no-password",
            # Under another name: a copy that is being made must not confirm a COMMIT.
            f"--dbname={self._conninfo('copy-' + self.name)}",
            final=self.data,
        )
        self._remake = ""

    async def make_slot_at_primary(self, *, anew: bool) -> None:
        """Have the primary keep what this one has not got yet."""
        if anew:
            await self.cluster.leader.ask(DROP_SLOT, self.slot)
        await self.cluster.leader.ask(MAKE_SLOT, self.slot)

    async def check(self) -> str:
        return await (self._check_primary() if self.leads else self._check_standby())

    async def _check_primary(self) -> str:
        row = await self.ask("select pg_is_in_recovery() as recovery")
        if row["recovery"]:  # it was chosen, and the supervisor ended before it was promoted
            await self.promote()
        said = await self.cluster.look(self)
        return f"accepts writes{said}"

    async def promote(self) -> None:
        """Make it the primary; NotReadyError when it did not become one."""
        row = await self.ask("select pg_promote(true, $1) as done", PROMOTE_WITHIN_S)
        if not row["done"]:
            raise NotReadyError("could not be promoted")

    async def _check_standby(self) -> str:
        try:
            row = await self.ask(
                "select pg_is_in_recovery() as recovery,"
                " (select status from pg_stat_wal_receiver) as receiver,"
                " pg_wal_lsn_diff(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())::bigint"
                " as behind_bytes"
            )
        except (OSError, NotReadyError):
            await self._heal()
            raise
        if not row["recovery"]:
            raise NotReadyError("promoted by somebody else: it is no standby any more")
        if row["receiver"] != "streaming":
            await self._heal()
            raise NotReadyError("does not stream from the primary")
        return f"streaming, {max(0, row['behind_bytes'] or 0)} bytes behind"

    async def repoint(self) -> None:
        """Follow the primary that there is now."""
        await self.alter("primary_conninfo", self.conninfo)

    async def _heal(self) -> None:
        """Read from its log why it does not stream; make the slot, or end it to be copied anew."""
        said = self._said()
        if SLOT_MISSING_PATTERN.search(said):
            with suppress(OSError, NotReadyError):
                await self.make_slot_at_primary(anew=False)
        lost = LOST_PATTERN.search(said)
        if lost and self.process and not self._remake:
            self._remake = f"the one there can not follow ({lost.group().decode()})"
            self.process.send_signal(signal.SIGINT)

    def _said(self) -> bytes:
        try:
            with self.log_file.open("rb") as log:
                log.seek(self._log_start)
                return log.read(1 << 20)
        except OSError:
            return b""

    def died_before_ready(self, times: int) -> None:
        super().died_before_ready(times)
        if times >= REMAKE_AFTER_FAILED_STARTS and not self._remake and not self.leads:
            self._remake = f"the one there did not start {times} times"

    def _say(self, text: str) -> None:
        with self.log_file.open("a") as log:
            log.write(f"tercet: {text}\n")

    def as_dict(self) -> dict[str, Any]:
        if not self.leads:
            return {**super().as_dict(), "role": "standby"}
        # By this it is judged who may be promoted, should it die now.
        streaming = sorted(name for name, seen in self.cluster.seen.items() if seen.streams)
        return {**super().as_dict(), "role": "primary", "standbys_streaming": streaming}


def _quoted(path: Path) -> str:
    """A path inside the quotes of a libpq connection string."""
    return str(path).replace("\\", "\\\\").replace("'", "\\'")
