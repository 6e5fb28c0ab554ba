"""What access is told: by Valkey what has changed, by business which pages there are.

Neither is waited for. Without Valkey pages are held for a second at a time, without the word of
business none is held yet; both are asked again until they answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

from services.access.targets import PageRule, read_rules
from services.deadline import Deadline
from services.exchange import Headers, Response
from services.settings import ValkeySettings
from services.tags import CUSTOMER_TAG, TagSubscriber
from services.tasks import end_tasks
from services.telemetry import logger
from services.valkey import close, connect

log = logger(__name__)

CONNECT_TIMEOUT_S: Final = 5.0  # reads in silence are bounded by the subscriber's own timeout
# A purge that was told before access heard anything, a process of business may not have heard
# either: it finds out by 1.5 s of silence. Without Valkey it may meanwhile read from a standby that
# is 1 s behind, as it was seen up to 0.6 s ago, and uses that for 1 s: 2.6 s after the purge at the
# latest it gives nothing older.
SETTLED_S: Final = 3.0
ASK_AGAIN_S: Final = 0.5
ASK_EVERY_S: Final = 60.0  # a new version of business may have other pages
ASK_TIMEOUT_S: Final = 2.0  # a constant answer; longer, and the connection is not worth waiting for


class Holder(Protocol):
    """Who holds pages."""

    def purge(self, tags: list[str], position: int) -> None: ...

    def learn(self, rules: Sequence[PageRule]) -> None: ...


class Believer(Protocol):
    """Who believes what was said of customers."""

    def purge(self, tags: Sequence[str], position: int) -> None: ...


class Business(Protocol):
    """Connections to business: a Pool or a Balance."""

    async def request(
        self, method: bytes, target: bytes, headers: Headers, /, *, deadline: Deadline
    ) -> Response: ...


class TagStream:
    """Made before the pages, which take verified_since; started with them, in the event loop."""

    def __init__(self, settings: ValkeySettings) -> None:
        self._valkey = connect(settings, timeout_s=CONNECT_TIMEOUT_S)
        self._subscriber = TagSubscriber(self._valkey)
        self._tasks: list[asyncio.Task[None]] = []
        self._rules: list[PageRule] = []

    def verified_since(self) -> float | None:
        """Since when (monotonic) what business gave can not have missed a purge; None: uncertain.

        It may lie ahead: then nothing that is held is certain yet.
        """
        since = self._subscriber.verified_since()
        return None if since is None else since + SETTLED_S

    def steady_since(self) -> float | None:
        """Since when what was told of customers has come in time; None: that is not certain now."""
        return self._subscriber.steady_since()

    def start(
        self, pages: Holder, business: Business, secret: bytes, identities: Believer | None = None
    ) -> None:
        """Listen and ask from now on, whether or not anybody answers."""

        def purge(tags: list[str], position: int) -> None:
            of_pages = [tag for tag in tags if not tag.startswith(CUSTOMER_TAG)]
            if of_pages:
                pages.purge(of_pages, position)
            if identities is not None and len(of_pages) < len(tags):
                identities.purge(tags, position)

        self._subscriber.on_purge(purge)
        self._tasks = [
            asyncio.create_task(self._subscriber.run()),
            asyncio.create_task(self._keep_asking(pages, business, secret)),
        ]

    async def aclose(self) -> None:
        await end_tasks(*self._tasks)
        await close(self._valkey)

    async def _keep_asking(self, pages: Holder, business: Business, secret: bytes) -> None:
        answered = True  # so that the first failure is said, and no other of the same loss
        while True:
            try:
                rules = await _rules_of(business, secret)
            except Exception as error:  # whatever it is, pages that are held are served
                if answered:
                    log.warning("business does not say what is a page", error=repr(error))
                answered = False
                await asyncio.sleep(ASK_AGAIN_S)
                continue
            answered = True
            if rules != self._rules:
                log.info("pages are known", paths=[rule.path for rule in rules])
                self._rules = rules
                pages.learn(rules)
            await asyncio.sleep(ASK_EVERY_S)


async def _rules_of(business: Business, secret: bytes) -> list[PageRule]:
    answer = await business.request(
        b"GET",
        b"/internal/pages",
        [(b"x-internal-secret", secret)],
        deadline=Deadline.after(ASK_TIMEOUT_S),
    )
    if answer.status != 200:
        raise ValueError(f"status {answer.status}")
    return read_rules(answer.body)
