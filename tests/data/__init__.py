"""Tests of the data tier, against real servers."""
