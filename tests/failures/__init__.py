"""What is broken on purpose, and what the shop makes of it."""
