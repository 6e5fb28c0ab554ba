"""What a metric is: a table of these is all that a tier says about its numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from services.histogram import LATENCY_BOUNDS_S

S = TypeVar("S")
S_contra = TypeVar("S_contra", contravariant=True)

Kind = Literal["counter", "gauge", "histogram"]
# The values of a metric by their labels. A histogram is the list of its slots, the sum of its
# values at the end.
Number = float | list[float]
Read = Iterator[tuple[tuple[str, ...], Number]]
Reading = Callable[[S_contra], Read]


@dataclass(frozen=True, slots=True)
class Family(Generic[S_contra]):
    """One metric of a process that is read from S. Its full name begins with that of the tier.

    A gauge also has the label `worker`: it is told of each process. Counters and histograms are
    summed over all processes.
    """

    name: str
    kind: Kind
    text: str
    read: Reading[S_contra]
    labels: tuple[str, ...]
    bounds: tuple[float, ...] = ()


def counter(name: str, text: str, read: Reading[S], *labels: str) -> Family[S]:
    """What only grows; prometheus puts _total behind its name."""
    return Family(name, "counter", text, read, labels)


def gauge(name: str, text: str, read: Reading[S], *labels: str) -> Family[S]:
    """What is so now."""
    return Family(name, "gauge", text, read, labels)


def histogram(
    name: str,
    text: str,
    read: Reading[S],
    *labels: str,
    bounds: tuple[float, ...] = LATENCY_BOUNDS_S,
) -> Family[S]:
    """How long things took; read gives Histogram.numbers() for the same bounds."""
    return Family(name, "histogram", text, read, labels, bounds)


def one(read: Callable[[S], Number]) -> Reading[S]:
    """The reading of a family without labels."""

    def reading(subject: S) -> Read:
        yield (), read(subject)

    return reading
