"""What runs Tercet: the command line, the local stack, container and server configuration."""
