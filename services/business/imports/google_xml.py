"""Google's product feed as XML: RSS 2.0 or Atom, read as a stream and without building a tree.

Entities and external references are refused (defusedxml), so no feed can grow while it is read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import ParseError, XMLParser

from services.business.imports.google import KEYS, REPEATED, our_name
from services.business.imports.rows import PROBLEM, FileProblem, Row
from services.business.imports.tables import OnBytes

GOOGLE_NAMESPACE: Final = "{http://base.google.com/ns/1.0}"
ROOTS: Final = ("rss", "feed")
ITEMS: Final = ("item", "entry")
READ_BYTES: Final = 64 * 1024
ITEM_TEXT_MAX: Final = 1024 * 1024  # characters of one item that are kept


def rows(path: Path, on_bytes: OnBytes) -> Iterator[Row]:
    """The items of a feed; FileProblem where it is not one, or not XML to its end."""
    feed = _Feed()
    parser = XMLParser(target=feed)
    # The expat parser inside knows which line it is on, exactly while it calls the target.
    feed.expat = parser.parser
    count = 0
    try:
        with path.open("rb") as file:
            while data := file.read(READ_BYTES):
                parser.feed(data)
                on_bytes(file.tell())
                while feed.items:
                    count += 1
                    yield feed.items.popleft()
            parser.close()
    except DefusedXmlException as error:
        kind = type(error).__name__
        raise FileProblem(f"{path}: refused, an entity or external reference ({kind})") from None
    except (ParseError, ValueError, LookupError) as error:  # the others: encodings not known
        raise FileProblem(f"{path}: is not well-formed XML: {error}") from None
    if feed.root not in ROOTS:
        raise FileProblem(f"{path}: is XML, but neither RSS nor Atom: <{feed.root[:40]}>")
    if not count:
        raise FileProblem(f"{path}: holds no items")


class _Feed:
    """Target of the parser: turns elements into rows, one item at a time.

    Google's own namespace wins over plain RSS or Atom elements of the same name.
    """

    def __init__(self) -> None:
        self.expat: object = None
        self.items: deque[Row] = deque()
        self.root = ""
        self._depth = 0
        self._item_depth = 0
        self._line = 0
        self._name: str | None = None
        self._googles = False
        self._plain: dict[str, str] = {}
        self._own: dict[str, str] = {}
        self._text: list[str] = []
        self._size = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        local = _local(tag)
        self.root = self.root or local
        if not self._item_depth:
            if local in ITEMS:
                self._begin_item()
        elif self._depth == self._item_depth + 1:
            self._name, self._text = our_name(local), []
            self._googles = tag.startswith(GOOGLE_NAMESPACE)

    def data(self, text: str) -> None:
        if self._name is not None and self._depth == self._item_depth + 1:
            self._size += len(text)
            if self._size <= ITEM_TEXT_MAX:
                self._text.append(text)

    def end(self, tag: str) -> None:
        if self._item_depth and self._depth == self._item_depth + 1:
            self._end_field()
        elif self._depth == self._item_depth:
            self._end_item()
        self._depth -= 1

    def close(self) -> None:
        """Called at the end of the file; what was read is in `items`."""

    def _begin_item(self) -> None:
        self._item_depth = self._depth
        self._line = getattr(self.expat, "CurrentLineNumber", 0)
        self._plain, self._own, self._name, self._size = {}, {}, None, 0

    def _end_field(self) -> None:
        name, value = self._name, "".join(self._text).strip()
        self._name = None
        if name is None or not value:
            return
        fields = self._own if self._googles else self._plain
        if name in REPEATED:
            value = " ".join(value.split())
            fields[name] = f"{fields[name]}\n{value}" if name in fields else value
        else:
            fields.setdefault(name, value)

    def _end_item(self) -> None:
        fields = self._plain | self._own
        if self._size > ITEM_TEXT_MAX:
            fields[PROBLEM] = f"has more than {ITEM_TEXT_MAX} characters"
        key = next((fields[name] for name in KEYS if name in fields), "")
        self.items.append(Row(key or f"\n{self._line}", self._line, fields))
        self._item_depth = 0


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]
