"""The numbers of all access processes of one parent, summed, as Prometheus reads them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Any, cast

import orjson
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from services.access.metrics import FAMILIES, Family, Snapshot, bounds, read
from services.access.readings import Number
from services.child import Child
from services.slots import Slots

if TYPE_CHECKING:
    from services.access.edge import Edge

WORKER = "worker"


class Report:
    """Says once a second what this process has counted, where every process can read it.

    Counters go on from what the process before in the same slot had counted: a sum that went down
    would be taken for a restart of everything, and all of it be counted again.
    """

    def __init__(self, edge: Edge, child: Child | None) -> None:
        self._edge = edge
        self._slots = child.slots if child is not None else Slots()
        self._slot = child.slot if child is not None else self._slots.take()
        self._started_at = time.time()
        said = self._slots.read(self._slot)
        self._before: Snapshot = _decoded(said)["numbers"] if said else {}

    def publish(self) -> None:
        """Say it. Also the last thing before the process ends, so that nothing is missing."""
        numbers = read(self._edge)
        for family in FAMILIES:
            if family.kind != "gauge":
                _add(numbers[family.name], self._before.get(family.name, {}))
        self._slots.write(self._slot, _encoded(numbers, self._started_at))

    def text(self) -> bytes:
        """What /metrics answers. This process has its say first, so that no counter goes back."""
        self.publish()
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Reading(self._slots))
        return generate_latest(registry)


class _Reading(Collector):
    """prometheus-client's way to ask for numbers when they are wanted."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots

    def collect(self) -> Iterator[Metric]:
        sums: dict[str, dict[tuple[str, ...], Number]] = {}
        workers: list[tuple[str, float]] = []
        for said in self._slots.read_all():
            document = _decoded(said.data)
            if said.alive:
                workers.append((str(said.slot), document["started_at"]))
            for family in FAMILIES:
                numbers = document["numbers"].get(family.name, {})
                total = sums.setdefault(family.name, {})
                if family.kind != "gauge":
                    _add(total, numbers)
                elif said.alive:
                    total |= {(*labels, str(said.slot)): value for labels, value in numbers.items()}
        for family in FAMILIES:
            yield _metric(family, sums.get(family.name, {}))
        started = GaugeMetricFamily(
            "tercet_access_start_time_seconds", "When each process started", labels=[WORKER]
        )
        for worker, at in workers:
            started.add_metric([worker], at)
        yield started


def _metric(family: Family, numbers: dict[tuple[str, ...], Number]) -> Metric:
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(family.name, family.text, labels=family.labels)
        for labels, values in numbers.items():
            *slots, total = cast("list[float]", values)
            buckets = list(zip(bounds(), accumulate(slots), strict=True))
            histogram.add_metric(labels, buckets, total)
        return histogram
    metric: CounterMetricFamily | GaugeMetricFamily
    if family.kind == "counter":
        metric = CounterMetricFamily(family.name, family.text, labels=family.labels)
    else:
        metric = GaugeMetricFamily(family.name, family.text, labels=(*family.labels, WORKER))
    for labels, value in sorted(numbers.items()):
        metric.add_metric(labels, cast(float, value))
    return metric


def _add(numbers: dict[tuple[str, ...], Number], more: dict[tuple[str, ...], Number]) -> None:
    for labels, value in more.items():
        known = numbers.get(labels)
        if isinstance(value, list):
            known = known if isinstance(known, list) else [0.0] * len(value)
            numbers[labels] = [a + b for a, b in zip(known, value, strict=True)]
        else:
            numbers[labels] = value + (known if isinstance(known, (int, float)) else 0)


def _encoded(numbers: Snapshot, started_at: float) -> bytes:
    listed = {name: list(values.items()) for name, values in numbers.items()}
    return orjson.dumps({"started_at": started_at, "numbers": listed})


def _decoded(data: bytes) -> dict[str, Any]:
    document = orjson.loads(data)
    document["numbers"] = {
        name: {tuple(labels): value for labels, value in values}
        for name, values in document["numbers"].items()
    }
    return document  # type: ignore[no-any-return]
