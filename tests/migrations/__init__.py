"""The schema as migrations make it, and take it away."""
