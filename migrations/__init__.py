"""The schema of Tercet as migrations, and how they are run."""
