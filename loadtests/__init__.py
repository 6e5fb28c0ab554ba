"""Load tests: an open-loop generator, what it sends, and the results it writes."""
