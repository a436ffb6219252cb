"""Pallas kernels for the hot paths, one per file, each with `run`, `reference` and `supports`.

The reference is plain lax, runs anywhere and defines the result; a kernel returns the same bytes.
"""
