"""Waiting for a condition with a bound: tests wait for what they need, never for a time."""

from __future__ import annotations

from loadtests.waiting import NotInTimeError, until

__all__ = ["NotInTimeError", "until"]
