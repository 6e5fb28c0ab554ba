"""`tercet timeouts`: how long each dependency really takes, beside the longest we wait for it."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from infra.local.addresses import get
from infra.local.folder import DataFolder

PERCENTILES: Final = (0.5, 0.99, 0.999)
ENOUGH_CALLS: Final = 10_000  # ten of them are above the p99.9: fewer say little about it
# Of each dependency, by the beginning of its name.
SETTINGS: Final = {
    "primary": "TERCET_STATEMENT_TIMEOUT_MS",
    "standby": "TERCET_STATEMENT_TIMEOUT_MS",
    "valkey": "TERCET_CACHE_TIMEOUT_MS",
    "provider": "TERCET_PROVIDER_TIMEOUT_MS",
}
SECONDS: Final = "upstream_seconds"
TIMEOUT: Final = "upstream_timeout_seconds"


@dataclass
class Observed:
    """The calls of one dependency, of all processes together, by how long they took at most."""

    name: str
    timeout_s: float = 0.0
    up_to: dict[float, float] = field(default_factory=dict)  # seconds, and how many calls

    @property
    def calls(self) -> int:
        return int(self.up_to.get(math.inf, 0))

    @property
    def setting(self) -> str:
        """The variable that its timeout comes from; empty for one that has none of its own."""
        return next((name for kind, name in SETTINGS.items() if self.name.startswith(kind)), "")

    def percentile_s(self, part: float) -> float | None:
        """The end of the slot in which it lies, in seconds: no call of that part took longer."""
        if not self.calls:
            return None
        return next(end for end, count in sorted(self.up_to.items()) if count >= part * self.calls)

    def too_short(self) -> bool:
        """Whether more than one call in a thousand takes longer than we wait."""
        seen = self.percentile_s(PERCENTILES[-1])
        return seen is not None and seen > self.timeout_s


def observed(texts: Iterable[bytes]) -> list[Observed]:
    """What /metrics of business and workers tells, summed by dependency."""
    found: dict[str, Observed] = {}
    for text in texts:
        for family in text_string_to_metric_families(text.decode()):
            for sample in family.samples:
                name = sample.labels.get("upstream", "")
                one = found.setdefault(name, Observed(name))
                if sample.name.endswith(f"_{SECONDS}_bucket"):
                    end = float(sample.labels["le"])
                    one.up_to[end] = one.up_to.get(end, 0) + sample.value
                elif sample.name.endswith(f"_{TIMEOUT}"):
                    one.timeout_s = max(one.timeout_s, sample.value)
    return [one for one in found.values() if one.timeout_s]


def lines(rows: Sequence[Observed]) -> list[str]:
    """The table, and a sentence for each setting that is too short."""
    names = "".join(f"{name:>10}" for name in ("calls", "p50", "p99", "p99.9", "timeout"))
    told = [f"{'dependency':<12}{names}  setting"]
    for row in rows:
        seen = "".join(f"{_ms(row.percentile_s(part)):>10}" for part in PERCENTILES)
        few = "" if row.calls >= ENOUGH_CALLS else "  (few calls: the p99.9 says little yet)"
        timeout = _ms(row.timeout_s)
        told.append(f"{row.name:<12}{row.calls:>10}{seen}{timeout:>10}  {row.setting}{few}")
    told += [
        f"{row.setting} is too short: the p99.9 of {row.name} is above its {_ms(row.timeout_s)}"
        for row in rows
        if row.too_short()
    ]
    return told


def show(addresses: Sequence[str]) -> int:
    """Ask each HOST:PORT for its metrics and print what they say; 1 when one does not answer."""
    try:
        texts = asyncio.run(_scrape(addresses))
    except (OSError, TimeoutError) as error:
        print(f"tercet timeouts: {error or 'no answer in time'}", file=sys.stderr)
        return 1
    print("\n".join(lines(observed(texts))))
    return 0


def addresses_of(folder: DataFolder) -> list[str]:
    """Where business and the workers of the running stack tell about themselves."""
    parts = folder.running_state()["parts"]
    names = ("business", "worker-")
    return [part["internal_address"] for part in parts if part["name"].startswith(names)]


async def _scrape(addresses: Sequence[str]) -> list[bytes]:
    async def one(address: str) -> bytes:
        host, _, port = address.rpartition(":")
        status, body = await get(host, int(port), "/metrics", 5.0)
        if status != 200:
            raise ConnectionError(f"{address}/metrics answers {status}")
        return body

    return await asyncio.gather(*map(one, addresses))


def _ms(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f">{_LAST}" if math.isinf(seconds) else f"{seconds * 1000:g} ms"


_LAST: Final = "10 s"  # the last bound of services/tally.py
