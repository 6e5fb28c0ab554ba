"""Data keeps the truth: the only package with SQL, cache keys and pools."""
