"""The embedded stack: PostgreSQL, Valkey and every Tercet process under one supervisor."""
