"""Payment providers: the sandbox that the local stack runs."""
