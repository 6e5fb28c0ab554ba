"""The corpus: raw requests of our own, written from RFC 9112 and 9110, and what becomes of each."""

from __future__ import annotations

from typing import Final

import pytest

from tests.access.cases import Case
from tests.access.corpus_framing import FRAMING
from tests.access.corpus_heads import HEADS
from tests.access.corpus_served import SERVED

CORPUS: Final[list[Case]] = [*SERVED, *HEADS, *FRAMING]
# Values keep the spaces that end them.
NOT_YET: Final = frozenset(("spaces and tabs around values", "chunked between a tab and a space"))
EACH: Final = [
    pytest.param(case, id=case.name, marks=[pytest.mark.xfail] if case.name in NOT_YET else [])
    for case in CORPUS
]
REFUSED: Final = [
    case for case in CORPUS if case.passed is None and not case.kept and case.name not in NOT_YET
]
