"""What a history of transactions over lists shows of their isolation, by Adya's names.

Every append puts a value that no other append puts, so a list that was read tells in which order
its appends took effect. From that follow the edges between transactions: ww (one appended right
after the other), wr (one read what the other appended last), rw (one read a list that the other
then appended to). A cycle of them is something that no order of the transactions explains (Adya,
Liskov and O'Neil, Generalized Isolation Level Definitions, ICDE 2000; Kingsbury and Alvaro, Elle,
VLDB 2020).
"""

from __future__ import annotations

import graphlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

Values = tuple[int, ...]
Outcome = Literal["committed", "aborted", "unknown"]
INITIAL: Final = -1  # who appended before the first value of every list


@dataclass
class Done:
    """A transaction as its client saw it: appended and read by key, the last read of each key."""

    appended: dict[int, list[int]] = field(default_factory=dict)
    read: dict[int, Values] = field(default_factory=dict)
    outcome: Outcome = "unknown"
    server: Literal["primary", "standby"] = "primary"


def anomalies_of_two(
    history: Sequence[Done], final: Mapping[int, Values]
) -> tuple[list[str], list[str]]:
    """Anomalies of a primary and its standby, and long forks, which are none that is promised.

    Two readers, one at each, may see two transactions in opposite orders: a primary shows commits
    in the order in which they leave the list of those that run, and a standby in the order of the
    log. So the history is to be sound with the readers of either, and with both except for cycles
    that only both can make.
    """
    found = []
    for server in ("primary", "standby"):
        found += anomalies([one for one in history if one.appended or one.server == server], final)
    together = anomalies(history, final)
    forks = [one for one in together if one.startswith("G2") and not found]
    return found + [one for one in together if one not in forks], forks


def anomalies(history: Sequence[Done], final: Mapping[int, Values]) -> list[str]:
    """Every anomaly, by its name; final: the lists as they are at the end.

    An unknown transaction counts as committed if anything that it appended is there, else as none.
    """
    writer = {
        value: number
        for number, done in enumerate(history)
        for values in done.appended.values()
        for value in values
    }
    found = [*_twice(final), *_not_of_one_order(history, final), *_lost(history, final)]
    found += [*_aborted_reads(history, writer), *_intermediate_reads(history, writer)]
    return found + _cycles(history, final, writer)


def _twice(final: Mapping[int, Values]) -> list[str]:
    return [f"twice: {key}" for key, values in final.items() if len(set(values)) < len(values)]


def _not_of_one_order(history: Iterable[Done], final: Mapping[int, Values]) -> list[str]:
    """What was read has to be a beginning of what is there at the end."""
    return [
        f"incompatible order: {key} was read as {seen}"
        for done in history
        if done.outcome == "committed"
        for key, seen in done.read.items()
        if final.get(key, ())[: len(seen)] != seen
    ]


def _lost(history: Iterable[Done], final: Mapping[int, Values]) -> list[str]:
    there = {value for values in final.values() for value in values}
    return [
        f"lost append: {value}"
        for done in history
        if done.outcome == "committed"
        for values in done.appended.values()
        for value in values
        if value not in there
    ]


def _aborted_reads(history: Sequence[Done], writer: Mapping[int, int]) -> list[str]:
    return [
        f"G1a: {value} of an aborted transaction was read"
        for done in history
        if done.outcome == "committed"
        for seen in done.read.values()
        for value in seen
        if history[writer[value]].outcome == "aborted"
    ]


def _intermediate_reads(history: Sequence[Done], writer: Mapping[int, int]) -> list[str]:
    """A read that ends between two appends of another transaction to the same list."""
    found = []
    for number, done in enumerate(history):
        for key, seen in done.read.items():
            if not seen or done.outcome != "committed" or writer[seen[-1]] == number:
                continue
            appended = history[writer[seen[-1]]].appended[key]
            if seen[-1] != appended[-1]:
                found.append(f"G1b: {key} was read up to {seen[-1]} of {appended}")
    return found


def _cycles(
    history: Sequence[Done], final: Mapping[int, Values], writer: Mapping[int, int]
) -> list[str]:
    ww, wr, rw = _edges(history, final, writer)
    found = []
    if cycle := _cycle(ww):
        found.append(f"G0: {cycle}")
    if cycle := _cycle(ww | wr):
        found.append(f"G1c: {cycle}")
    found += [
        f"lost update: {a} and {b} read one version" for a, b in sorted(rw & _turned(ww | rw))
    ]
    if cycle := _cycle(ww | wr | rw):
        found.append(f"G2: {cycle}")
    return found


Edges = set[tuple[int, int]]


def _edges(
    history: Sequence[Done], final: Mapping[int, Values], writer: Mapping[int, int]
) -> tuple[Edges, Edges, Edges]:
    ww: Edges = set()
    wr: Edges = set()
    rw: Edges = set()
    follower: dict[tuple[int, int], int] = {}  # who appended next after a value to a list
    for key, values in final.items():
        before = INITIAL
        for value in values:
            follower[key, before] = writer[value]
            if before != INITIAL:
                ww.add((writer[before], writer[value]))
            before = value
    for number, done in enumerate(history):
        if done.outcome == "aborted":
            continue
        for key, seen in done.read.items():
            last = seen[-1] if seen else INITIAL
            if last != INITIAL:
                wr.add((writer[last], number))
            if (key, last) in follower:
                rw.add((number, follower[key, last]))
    return tuple({edge for edge in edges if edge[0] != edge[1]} for edges in (ww, wr, rw))  # type: ignore[return-value]  # of three


def _turned(edges: Edges) -> Edges:
    return {(b, a) for a, b in edges}


def _cycle(edges: Edges) -> list[int]:
    """One cycle, or nothing."""
    graph: dict[int, set[int]] = defaultdict(set)
    for before, after in edges:
        graph[after].add(before)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []
