"""Access and the shared HTTP client, over real sockets."""
