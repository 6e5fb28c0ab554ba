"""Catalogs from outside: readers of product files, and the generator."""
