"""Tests, in folders that mirror the tiers."""
