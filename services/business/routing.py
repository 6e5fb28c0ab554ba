"""Finding a route by the parts of its path, ahead of Starlette, which tries pattern after pattern.

What is not found here is left to Starlette: health and pages beside the API, wrong methods, and
paths that lead nowhere.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

Answer = Callable[[Request], Awaitable[Response]]


class _Row(NamedTuple):
    methods: frozenset[str]
    places: list[int]  # of the parts that have to be these words
    words: list[str]
    parameters: list[tuple[int, str]]
    answer: Answer


class RouteTable:
    """Routes whose paths are whole parts, as /orders/{order_id}/payments, and begin with a word."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._rows: dict[tuple[int, str], list[_Row]] = {}
        for route in routes:
            parts = route.path.split("/")
            named = [(n, part[1:-1]) for n, part in enumerate(parts) if part.startswith("{")]
            places = [n for n, part in enumerate(parts) if not part.startswith("{")]
            words, methods = [parts[n] for n in places], frozenset(route.methods or ())
            row = _Row(methods, places, words, named, route.endpoint)
            self._rows.setdefault((len(parts), parts[1]), []).append(row)

    def find(self, method: str, path: str) -> tuple[Answer, dict[str, str]] | None:
        """Who answers, and the parameters of the path."""
        parts = path.split("/")
        if len(parts) < 2:
            return None
        for row in self._rows.get((len(parts), parts[1]), ()):
            if method in row.methods and row.words == [parts[n] for n in row.places]:
                values = {name: parts[n] for n, name in row.parameters}
                if all(values.values()):  # an empty part is none
                    return row.answer, values
        return None
