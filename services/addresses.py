"""The servers behind one or several URLs: found by name, watched, and asked before they return."""

from __future__ import annotations

import asyncio
import ipaddress
import math
import socket
import ssl
import time
from collections.abc import Coroutine, Iterable
from typing import Any, Final, NamedTuple, Protocol

from services.address import origin
from services.deadline import Deadline
from services.exchange import ConnectFailed, ConnectTimedOut, ExchangeError
from services.keepalive import Pool
from services.members import Member, Members
from services.tasks import end_tasks
from services.telemetry import logger

log = logger(__name__)

RESOLVE_EVERY_S: Final = 3.0  # how late a server is found that was added: `--scale business=2`
LOOK_EVERY_S: Final = 0.1
# A server that has said nothing for SILENT_S while another did is asked whether it lives; both
# and a look make less than the second in which a stopped one is to be out.
SILENT_S: Final = 0.3
LIVE_WITHIN_S: Final = 0.3
READY_WITHIN_S: Final = 1.0  # it asks its database, for half a second at most
READY_EVERY_S: Final = 0.5
LIVE: Final = b"/live"
READY: Final = b"/ready"


class User(Protocol):
    """A class of traffic to these servers."""

    def changed(self) -> None:
        """There are other members, or others of them are used."""

    def in_flight_at(self, member: Member) -> int: ...

    def forsake(self, member: Member) -> None:
        """It has stopped answering: what may be sent elsewhere is not to wait for it."""


class _Origin(NamedTuple):
    host: str
    port: int
    tls: ssl.SSLContext | None


class Addresses:
    """What several classes of traffic know together about the servers they share.

    A host name with several addresses is several servers. One server has nobody to be compared
    with: it is not watched.
    """

    def __init__(self, urls: Iterable[str], *, resolve_every_s: float = RESOLVE_EVERY_S) -> None:
        self.members = Members()
        self._origins = [_Origin(*origin(url)) for url in urls]
        self._resolve_every_s = resolve_every_s
        self._users: list[User] = []
        self._resolving: asyncio.Task[None] | None = None
        self._resolved = all(_is_ip(each.host) for each in self._origins)
        self._asking: set[Member] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._watched = False
        if self._resolved:
            self._set([(each, each.host) for each in self._origins])

    def join(self, user: User) -> None:
        self._users.append(user)

    def leave(self, user: User) -> None:
        if user in self._users:
            self._users.remove(user)

    async def ready(self, deadline: Deadline) -> None:
        """Know the servers, and watch them from now on; or ConnectFailed."""
        if not self._resolved:
            await self._resolve_once(deadline)
        if self._watched:
            return
        self._watched = True
        named = not all(_is_ip(each.host) for each in self._origins)
        if named:
            self._run(self._follow())
        if named or len(self.members.all) > 1:
            self._run(self._watch())

    async def aclose(self) -> None:
        self._watched = True  # nobody is to begin again
        await end_tasks(*self._tasks)

    # Finding them

    async def _resolve_once(self, deadline: Deadline) -> None:
        """However many ask at the beginning, the names are asked for once."""
        if self._resolving is None or self._resolving.done():
            self._resolving = self._run(self._resolve())
        wait_s = None if deadline.at == math.inf else deadline.left_s()
        await asyncio.wait((self._resolving,), timeout=wait_s)
        if not self._resolving.done():
            raise ConnectTimedOut("the names were not found in time")
        if error := self._resolving.exception():
            raise ConnectFailed(str(error)) from error

    async def _resolve(self) -> None:
        found = [(each, ip) for each in self._origins for ip in await _ips(each.host, each.port)]
        self._set(found)
        self._resolved = True

    async def _follow(self) -> None:
        """Ask for the names again and again; while nobody knows them, the servers stay."""
        while True:
            await asyncio.sleep(self._resolve_every_s)
            try:
                await self._resolve()
            except OSError as error:
                log.warning("a name is not known at the moment", reason=str(error))

    def _set(self, found: list[tuple[_Origin, str]]) -> None:
        now = time.monotonic()
        known = {(each.host, each.ip, each.port): each for each in self.members.all}
        members = []
        for (host, port, tls), ip in dict.fromkeys(found):
            member = known.pop((host, ip, port), None)
            if member is None:
                member = Member(host, port, tls=tls, ip=ip)
                member.heard(now)
                if self._resolved and self.members.all:
                    member.admit(now)
                    log.info("a server was found", server=member.name)
            members.append(member)
        for gone in known.values():
            log.info("a server is gone", server=gone.name)
        if members != list(self.members.all):
            self.members.replace(members)
            self._tell()

    # Watching them

    def failed(self, member: Member) -> None:
        """It could not be reached, broke an exchange off, or answered as one that is sick."""
        if self.members.failed(member, time.monotonic()):
            log.warning("a server fails and is left out", server=member.name)
            self._tell()

    async def _watch(self) -> None:
        looked_at = time.monotonic()
        while True:
            alone = len(self.members.all) == 1
            await asyncio.sleep(self._resolve_every_s if alone else LOOK_EVERY_S)
            now = time.monotonic()
            if now - looked_at > 3 * LOOK_EVERY_S:  # nobody was watched, or nothing ran here
                for member in self.members.all:
                    member.heard(now)
            looked_at = now
            self._look(now)

    def _look(self, now: float) -> None:
        silent_s = {
            member: member.silent_s(now, sum(user.in_flight_at(member) for user in self._users))
            for member in self.members.all
        }
        for member in self.members.all:
            if member in self._asking:
                continue
            if member.is_due(now):
                self._ask(member, self._return_if_ready(member))
            elif silent_s[member] >= SILENT_S and any(
                silent_s[other] < SILENT_S / 2 for other in self.members.used if other is not member
            ):
                self._ask(member, self._eject_if_dead(member))

    def _ask(self, member: Member, asking: Coroutine[Any, Any, None]) -> None:
        self._asking.add(member)
        self._run(asking).add_done_callback(lambda _: self._asking.discard(member))

    async def _eject_if_dead(self, member: Member) -> None:
        answered_total = member.answered_total
        alive = await _status(member, LIVE, LIVE_WITHIN_S) is not None
        now = time.monotonic()
        if alive or member.answered_total != answered_total:
            member.heard(now)
        elif self.members.eject(member, now):
            log.warning("a server is silent and is left out", server=member.name)
            self._tell()
            for user in self._users:
                user.forsake(member)

    async def _return_if_ready(self, member: Member) -> None:
        if await _status(member, READY, READY_WITHIN_S) == 200:
            log.info("a server is ready again", server=member.name)
            self.members.readmit(member, time.monotonic())
            self._tell()
        else:
            await asyncio.sleep(READY_EVERY_S)

    def _tell(self) -> None:
        for user in self._users:
            user.changed()

    def _run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def _ips(host: str, port: int) -> list[str]:
    """All addresses of one family: a host that has both would count twice. IPv4 where there is."""
    if _is_ip(host):
        return [host]
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    families = {family for family, *_ in found}
    wanted = socket.AF_INET if socket.AF_INET in families else socket.AF_INET6
    return sorted({str(address[0]) for family, *_, address in found if family == wanted})


async def _status(member: Member, target: bytes, within_s: float) -> int | None:
    """The status of its answer on a connection of its own; None: there was none in time."""
    pool = Pool(member.host, member.port, size=1, tls=member.tls, ip=member.ip)
    try:
        answer = await pool.request(b"GET", target, deadline=Deadline.after(within_s))
    except ExchangeError:
        return None
    finally:
        await pool.aclose()
    return answer.status
