"""A rule that data has to obey: a sentence, and SQL that finds what breaks it."""

from __future__ import annotations

from typing import NamedTuple


class Rule(NamedTuple):
    """checked: SQL that counts what the rule holds for; broken: SQL whose rows break it."""

    area: str
    sentence: str
    checked: str
    broken: str
