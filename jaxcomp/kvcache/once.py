"""once: a builder that is asked for the same again gives what it gave before.

A cache is functions, and jax knows functions by who they are: without this, those of a second
dense(64) would be traced and compiled once more, called as they are or as static arguments.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

Build = TypeVar("Build", bound=Callable[..., Any])
KEPT = 64  # of each builder, the last ones: they hold on to their programs


def once(build: Build) -> Build:
    """`build`, remembering. Arguments that have no hash, such as arrays, are built with each time,
    and so are functions that hold something, which would be held on to."""
    kept = functools.lru_cache(maxsize=KEPT, typed=True)(build)

    @functools.wraps(build)
    def built(*arguments, **options):
        every = (*arguments, *options.values())
        try:
            hash(every)
        except TypeError:
            return build(*arguments, **options)
        if any(getattr(x, "__closure__", None) for x in every):
            return build(*arguments, **options)
        return kept(*arguments, **options)

    return built
