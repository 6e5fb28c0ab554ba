"""Where pages are held: by canonical target and by tag, within a bound in bytes."""

from __future__ import annotations

from typing import Final

from services.access.eviction import OUT, S3Fifo
from services.access.page import Content, Page

LARGEST_SHARE: Final = 20  # a page above a twentieth of the memory is not held


class Shelf:
    """The held pages. `pages` is read directly on the hot path, and written here only."""

    def __init__(self, memory_bytes: int) -> None:
        self.pages: dict[bytes, Page] = {}
        self.room: S3Fifo[Page] = S3Fifo(memory_bytes, self._evicted)
        self._by_tag: dict[str, set[Page]] = {}

    def put(self, target: bytes, content: Content, began_at: float) -> Page | None:
        """Hold what a fetch brought; None if it is too large, which lets an older one go too.

        A page that was held already stays the same object, and where it is in its queue.
        """
        page = self.pages.get(target)
        if page is None:
            page = Page(target, content, began_at)
        else:
            self._unindex(page)
            page.fill(content, began_at)
            self._index(page)
        cost_bytes = page.cost_bytes()
        if cost_bytes * LARGEST_SHARE > self.room.memory_bytes:
            if page.queue != OUT:
                self.drop(page)
            return None
        if page.queue != OUT:
            self.room.resize(page, cost_bytes - page.size_bytes)
        else:
            page.size_bytes = cost_bytes
            self.pages[target] = page
            self._index(page)
            self.room.add(target, page)
        return page

    def drop(self, page: Page) -> None:
        self.room.remove(page.target, page)
        self._evicted(page.target, page)

    def purge(self, tag: str, position: int, now: float) -> int:
        """Let the pages of a tag grow old; returns how many.

        A page that has seen the change already need not be fetched again.
        """
        purged = 0
        for page in self._by_tag.get(tag, ()):
            if not page.old and (page.position is None or page.position < position):
                page.grow_old(now)
                purged += 1
        return purged

    def _evicted(self, target: bytes, page: Page) -> None:
        del self.pages[target]
        self._unindex(page)

    def _index(self, page: Page) -> None:
        for tag in page.tags:
            self._by_tag.setdefault(tag, set()).add(page)

    def _unindex(self, page: Page) -> None:
        for tag in page.tags:
            pages = self._by_tag.get(tag)
            if pages is not None:
                pages.discard(page)
                if not pages:
                    del self._by_tag[tag]
