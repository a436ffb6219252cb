"""How much XLA optimises what tests compile, and what is compiled or built once for many tests.

The fixtures quick and quick_file of conftest.py are for the first; `once` holds for all tests.
"""

import collections
import contextlib
import functools
import math
import threading
from collections.abc import Iterator
from typing import Any

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


EXACT = frozenset(  # what rounds nothing, so that it means the same bits however it is compiled
    "abs and bitcast_convert broadcast broadcast_in_dim ceil clamp compare concatenate constant "
    "count_leading_zeros dynamic_slice dynamic_update_slice floor iota is_finite maximum minimum "
    "negate not or pad popcnt real reshape reverse round_nearest_afz round_nearest_even select "
    "shift_left shift_right_arithmetic shift_right_logical sign slice transpose xor".split()
)
ROUNDED = frozenset("add subtract multiply divide remainder convert".split())  # as IEEE 754 says
WHOLE = ("i", "ui")  # names of integers and truth values
FEW = 32  # operations; of larger programs, optimising is a smaller part of the time
SMALL = 1 << 16  # entries; unoptimised loops over more run for longer than they compile


def means_the_same(module: Any) -> bool:
    """Whether no optimisation can change a bit of what a program, as MLIR, returns, but for the
    sign and payload of a NaN.

    So it is if at most one of its few operations rounds: nothing can be fused or ordered anew.
    Nearly all programs of tests are such, one for each operation outside of jit.
    """
    rounded, count = 0, 0
    for function in module.body.operations:
        if function.operation.name != "func.func":
            return False
        for operation in function.regions[0].blocks[0].operations:
            dialect, _, name = operation.operation.name.partition(".")
            if dialect == "func":  # calls and returns
                continue
            if dialect != "stablehlo" or name not in EXACT | ROUNDED:
                return False
            shaped = operation.results[0].type
            kind = str(shaped.element_type)
            whole = kind.startswith(WHOLE)
            if name == "convert":  # from an integer it rounds, but is fused with nothing
                whole |= str(operation.operands[0].type.element_type).startswith(WHOLE)
            rounded += name in ROUNDED and not whole
            count += 1
            large = count > FEW or math.prod(shaped.shape) > SMALL
            if rounded > 1 or large or kind.startswith("complex"):  # of several numbers
                return False
    return True


KEPT = 256  # executables


@functools.cache
def once() -> None:
    """Makes jax compile for tests: the same results in two thirds of the time.

    Most of what tests run are programs of one operation, which take longer to set up for than to
    compile. Those that mean the same in any case are not optimised. One that was compiled already,
    say for the same function built anew, is not compiled again. And 40 programs share a context
    of MLIR, which takes as long to make as a small program does to compile. Traces are counted
    as ever: nothing of this is known before a program is lowered.
    """
    if not jax.__version__.startswith("0.10."):
        return  # what is replaced here is private to jax, and moves between versions
    from jax._src import compiler
    from jax._src.interpreters import mlir

    usual = compiler.backend_compile_and_load
    executables: collections.OrderedDict[Any, Any] = collections.OrderedDict()

    def compile_once(backend, module, devices, options, callbacks):
        def compile_usual():
            return usual(backend, module, devices, options, callbacks)

        if backend.platform != "cpu" or callbacks:
            return compile_usual()
        if means_the_same(module):
            debug = options.executable_build_options.debug_options
            debug.xla_backend_optimization_level = 0
            debug.xla_llvm_disable_expensive_passes = True
            return compile_usual()
        text = str(module)
        if "callback" in text:  # one of Python's is named by where it lies
            return compile_usual()
        key = text, options.SerializeAsString(), tuple(devices)
        if key not in executables:
            executables[key] = compile_usual()
            if len(executables) > KEPT:
                executables.popitem(last=False)
        return executables[key]

    make_usual = mlir.make_ir_context
    contexts: list[Any] = []

    def make_once():
        main = threading.current_thread() is threading.main_thread()
        if mlir.ir.Context.current is not None or not main:  # others would be in it meanwhile
            return make_usual()
        if len(contexts) % 40 == 0:
            contexts[:] = [make_usual()]
        else:
            contexts.append(contexts[0])
        return contexts[0]

    compiler.backend_compile_and_load = compile_once
    mlir.make_ir_context = make_once
