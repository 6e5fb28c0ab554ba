"""Process memory: bounded in bytes, and what goes first."""

from __future__ import annotations

import pytest

from services.data.cache import Cache
from services.data.memory import ENTRY_BYTES, JITTER, STALE_S, Entry
from tests.data.caching import Source, Thing, text_of


async def test_memory_is_bounded_and_forgets_the_tags_of_what_it_drops(
    cache: Cache[Thing], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.data.memory.MEMORY_BYTES", 3 * (ENTRY_BYTES + len("old")))
    monkeypatch.setattr("services.data.memory.PURGES_KEPT", 3)
    sources = [Source(tag=f"tag-{number}") for number in range(5)]
    for number, source in enumerate(sources):
        await text_of(cache, source, key=str(number))
    assert list(cache.memory.entries) == ["2", "3", "4"]
    assert set(cache.memory._keys_by_tag) == {"tag-2", "tag-3", "tag-4"}
    cache.purge([f"tag-{number}" for number in range(5)], 7)
    assert not cache.memory.entries
    assert not cache.memory._keys_by_tag
    assert cache.memory.size_bytes == 0
    assert list(cache.memory._purged) == ["tag-2", "tag-3", "tag-4"]


async def test_a_large_value_takes_the_place_of_many_small_ones(
    cache: Cache[Thing], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.data.memory.MEMORY_BYTES", 5 * (ENTRY_BYTES + len("old")))
    for key in ("1", "2", "3", "4"):
        await text_of(cache, Source(), key=key)
    await text_of(cache, Source(), key="1")  # asked for again: "2" is the oldest now
    await text_of(cache, Source(text="x" * 3 * ENTRY_BYTES), key="large")
    await text_of(cache, Source(text="x" * 6 * ENTRY_BYTES), key="too large")
    assert list(cache.memory.entries) == ["1", "large"]
    assert cache.memory.size_bytes == sum(
        entry.size_bytes for entry in cache.memory.entries.values()
    )


async def test_what_has_expired_goes_before_what_has_not(
    cache: Cache[Thing], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.data.memory.MEMORY_BYTES", 2 * (ENTRY_BYTES + len("old")))
    await text_of(cache, Source(tag="lasting"), key="lasting")
    cache.memory.keep("expired", Entry(Thing("old"), ["expired"], 0, 0.0), ttl_s=0.0)
    await text_of(cache, Source(tag="new"), key="new")
    assert list(cache.memory.entries) == ["lasting", "new"]
    assert set(cache.memory._keys_by_tag) == {"lasting", "new"}


async def test_what_can_not_be_shown_any_more_goes_though_there_is_room(
    cache: Cache[Thing],
) -> None:
    """Else the list of when things expire would grow with every value that is loaded anew."""
    memory = cache.memory
    for _ in range(100):
        memory.keep("again", Entry(Thing("old"), ["tag"], 0, 0.0), ttl_s=-STALE_S / (1 - JITTER))
    memory.keep("new", Entry(Thing("old"), ["tag"], 0, 0.0), ttl_s=1.0)
    assert list(memory.entries) == ["new"]
    assert len(memory._expiries) == 1
