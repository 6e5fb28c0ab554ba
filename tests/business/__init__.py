"""Tests of the business tier."""
