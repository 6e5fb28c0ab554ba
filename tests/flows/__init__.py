"""What crosses several tiers or files, from end to end."""
