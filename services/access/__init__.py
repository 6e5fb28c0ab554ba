"""Access keeps the connections: it admits, verifies and forwards."""
