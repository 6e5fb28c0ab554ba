"""Tests of the load generator and of what it reports."""
