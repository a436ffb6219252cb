"""The command line: one command per file, each with `add` (its arguments) and `run` (its work)."""
