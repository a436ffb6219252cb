"""One traced function, one program per platform.

`by_platform` lets the lowering choose between a plain lax function and a Pallas kernel, so that one
jitted function serves CPU, GPU and TPU and can be compiled for a machine that is not there.

Under shard_map every value is typed with the mesh axes over which it varies, and all branches must
agree on those types. `align` makes all arguments vary over the union of their axes, which is
what a coder's results do; `result` describes a kernel's output with that type. With neither of them
a kernel would ask its users for check_vma=False.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax


def _varying(x: jax.Array) -> frozenset[str]:
    """Names of the manual mesh axes over which x differs; empty outside shard_map."""
    return jax.typeof(x).manual_axis_type.varying


def align(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """The arrays, each marked as varying over every manual mesh axis over which any of them does."""
    axes = frozenset().union(*map(_varying, arrays))

    def mark(x: jax.Array) -> jax.Array:
        missing = tuple(sorted(axes - _varying(x)))
        return lax.pcast(x, missing, to="varying") if missing else x

    return tuple(map(mark, arrays))


def result(like: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    """What a kernel returns: a shape, a dtype, and the manual axes of `like`."""
    axis_type = jax.typeof(like).manual_axis_type
    return jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=axis_type)


def by_platform(
    *arrays: jax.Array,
    reference: Callable[..., Any],
    cuda: Callable[..., Any] | None = None,
    tpu: Callable[..., Any] | None = None,
) -> Any:
    """cuda(*arrays) on an NVIDIA GPU, tpu(*arrays) on a TPU, reference(*arrays) elsewhere.

    A kernel given as None does not support these shapes, and the reference takes its place.
    """
    kernels = {"cuda": cuda, "tpu": tpu}
    kernels = {platform: kernel for platform, kernel in kernels.items() if kernel is not None}
    arrays = align(*arrays)
    if not kernels:
        return reference(*arrays)
    return lax.platform_dependent(*arrays, default=reference, **kernels)
