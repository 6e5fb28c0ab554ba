"""The numbers of all processes of one parent, summed, as Prometheus reads them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, Final, Generic, TypeVar, cast

import orjson
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from services.child import Child
from services.families import Family, Number
from services.slots import Slots

S = TypeVar("S")

WORKER: Final = "worker"
Numbers = dict[tuple[str, ...], Number]


class Report(Generic[S]):
    """Says once a second what this process has counted, where every process can read it.

    Counters go on from what the process before in the same slot had counted: a sum that went down
    would be taken for a restart of everything, and all of it be counted again.
    """

    def __init__(
        self, tier: str, subject: S, families: Sequence[Family[S]], child: Child | None
    ) -> None:
        self._prefix = f"tercet_{tier}_"
        self._subject = subject
        self._families = families
        self._slots = child.slots if child is not None else Slots()
        self._slot = child.slot if child is not None else self._slots.take()
        self._started_at = time.time()
        said = self._slots.read(self._slot)
        self._before: Mapping[str, Numbers] = _decoded(said)["numbers"] if said else {}

    def publish(self) -> None:
        """Say it. Also the last thing before the process ends, so that nothing is missing."""
        numbers = {family.name: dict(family.read(self._subject)) for family in self._families}
        for family in self._families:
            if family.kind != "gauge":
                _add(family, numbers[family.name], self._before.get(family.name, {}))
        self._slots.write(self._slot, _encoded(numbers, self._started_at))

    def text(self) -> bytes:
        """What /metrics answers. This process has its say first, so that no counter goes back."""
        self.publish()
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Reading(self._prefix, self._families, self._slots))
        return generate_latest(registry)


class _Reading(Collector):
    """prometheus-client's way to ask for numbers when they are wanted."""

    def __init__(self, prefix: str, families: Sequence[Family[Any]], slots: Slots) -> None:
        self._prefix = prefix
        self._families = families
        self._slots = slots

    def collect(self) -> Iterator[Metric]:
        sums: dict[str, Numbers] = {family.name: {} for family in self._families}
        workers: list[tuple[str, float]] = []
        for said in self._slots.read_all():
            document = _decoded(said.data)
            if said.alive:
                workers.append((str(said.slot), document["started_at"]))
            for family in self._families:
                numbers = document["numbers"].get(family.name, {})
                total = sums[family.name]
                if family.kind != "gauge":
                    _add(family, total, numbers)
                elif said.alive:
                    total |= {(*labels, str(said.slot)): value for labels, value in numbers.items()}
        for family in self._families:
            yield _metric(self._prefix + family.name, family, sums[family.name])
        name = f"{self._prefix}start_time_seconds"
        started = GaugeMetricFamily(name, "When each process started", labels=[WORKER])
        for worker, at in workers:
            started.add_metric([worker], at)
        yield started


def _metric(name: str, family: Family[Any], numbers: Numbers) -> Metric:
    if family.kind == "histogram":
        ends = (*map(str, family.bounds), "+Inf")
        histogram = HistogramMetricFamily(name, family.text, labels=family.labels)
        for labels, values in numbers.items():
            *slots, total = cast("list[float]", values)
            histogram.add_metric(labels, list(zip(ends, accumulate(slots), strict=True)), total)
        return histogram
    metric: CounterMetricFamily | GaugeMetricFamily
    if family.kind == "counter":
        metric = CounterMetricFamily(name, family.text, labels=family.labels)
    else:
        metric = GaugeMetricFamily(name, family.text, labels=(*family.labels, WORKER))
    for labels, value in sorted(numbers.items()):
        metric.add_metric(labels, cast(float, value))
    return metric


def _add(family: Family[Any], numbers: Numbers, more: Numbers) -> None:
    for labels, value in more.items():
        known = numbers.get(labels)
        if isinstance(value, list):
            # A process of another release may have had other bounds: its slots say nothing here.
            if len(value) == len(family.bounds) + 2:
                known = known if isinstance(known, list) else [0.0] * len(value)
                numbers[labels] = [a + b for a, b in zip(known, value, strict=True)]
        else:
            numbers[labels] = value + (known if isinstance(known, (int, float)) else 0)


def _encoded(numbers: Mapping[str, Numbers], started_at: float) -> bytes:
    listed = {name: list(values.items()) for name, values in numbers.items()}
    return orjson.dumps({"started_at": started_at, "numbers": listed})


def _decoded(data: bytes) -> dict[str, Any]:
    document = orjson.loads(data)
    document["numbers"] = {
        name: {tuple(labels): value for labels, value in values}
        for name, values in document["numbers"].items()
    }
    return document  # type: ignore[no-any-return]
