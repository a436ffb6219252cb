"""How much XLA optimises what tests compile: the fixtures quick and quick_file of conftest.py."""

import contextlib
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def optimised(on: bool) -> Iterator[None]:
    """A context, and a decorator. Programs that were compiled before stay as they are.

    Unoptimised ones compile in half the time and less. No product is fused with a sum in them, so
    floats of two programs are equal that otherwise are not: what compares floats bit for bit is
    optimised, and so are long loops, which run many times longer if they are not.
    """
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", not on)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)
