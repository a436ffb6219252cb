"""Programs that will be called one after the other, compiled by all cores while they are traced.

A process that compresses one photo spends most of its time on a dozen programs that it runs once.
Tracing holds Python's lock; compiling, and reading what was compiled before, does not.
"""

import functools
import gc
import os
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax

_done: set[Hashable] = set()


def compile_ahead(key: Hashable, programs: Callable[[Callable], None]) -> None:
    """Compile all that programs(add) adds, once for each key.

    add(function, *args) is called as the jitted function will be, with arrays or their shapes, and
    returns the shapes of what it returns. The call then finds its program compiled. With jit
    disabled, where nothing is compiled, nothing is done.
    """
    if key in _done or jax.config.jax_disable_jit:
        return
    compiling = []

    def add(function: Callable, *args: Any) -> Any:
        traced = function.trace(*args)
        compiling.append(_threads().submit(traced.lower().compile))
        return traced.out_info

    # Tracing makes many objects and no garbage: to look for it takes a tenth of the time.
    collecting = gc.isenabled()
    gc.disable()
    try:
        programs(add)
    finally:
        if collecting:
            gc.enable()
    for each in compiling:
        each.result()
    _done.add(key)


@functools.cache
def _threads():
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="jaxcomp-compile")
