"""The corpus: raw requests of our own, written from RFC 9112 and 9110, and what becomes of each."""

from __future__ import annotations

from typing import Final

import pytest

from tests.access.cases import Case
from tests.access.corpus_framing import FRAMING
from tests.access.corpus_heads import HEADS
from tests.access.corpus_served import SERVED

CORPUS: Final[list[Case]] = [*SERVED, *HEADS, *FRAMING]
# Cases that access does not answer as it should yet.
NOT_YET: Final[frozenset[str]] = frozenset()
EACH: Final = [
    pytest.param(case, id=case.name, marks=[pytest.mark.xfail] if case.name in NOT_YET else [])
    for case in CORPUS
]
REFUSED: Final = [
    case for case in CORPUS if case.passed is None and not case.kept and case.name not in NOT_YET
]
