"""One traced function, one program per platform, chosen when XLA's input is written.

`primitive` makes a JAX primitive out of a plain lax function and its kernels. A traced program then
holds one equation, and only the kernel of the platform that it is lowered for is ever traced: a CPU
pays nothing for the others (not even importing Pallas), and a program can be compiled for a machine
that is not there. (lax.platform_dependent traces every branch in every program.)

The primitive lives under jit, scan, shard_map (with its default check_vma=True too), pmap and
vmap; a batch under vmap is folded into the leading axis of the arrays by the `fold` that its maker
gives. Integers have no gradient, so there is no rule for one.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jax.sharding import NamedSharding, PartitionSpec


def primitive(
    name: str,
    *,
    shapes: Callable[..., list[tuple[tuple[int, ...], Any]]],
    reference: Callable[..., tuple[jax.Array, ...]],
    kernels: dict[str, Callable[..., tuple[jax.Array, ...]]],
    fold: Callable[..., tuple[jax.Array, ...]],
) -> Callable[..., tuple[jax.Array, ...]]:
    """A function of arrays and static keywords that runs kernels[platform], or else the reference.

    shapes(*arrays, **static) -> (shape, dtype) of each result. The first array's leading axis is
    the one that all results share. fold(size, arrays, **static) -> results with a leading axis of
    `size`, for arrays that each have one more leading axis, of length `size` or, unbatched, 1.
    """
    made = Primitive(name)
    made.multiple_results = True
    made.def_impl(reference)  # reached only under jax.disable_jit

    @made.def_abstract_eval
    def _(*arrays, **static):
        return [_aval(arrays[0], *shape) for shape in shapes(*arrays, **static)]

    mlir.register_lowering(made, mlir.lower_fun(reference, multiple_results=True))
    for platform, kernel in kernels.items():
        rule = mlir.lower_fun(kernel, multiple_results=True)
        mlir.register_lowering(made, rule, platform=platform)

    def call(*arrays, **static):
        # Keywords are hashable, so jit's own cache keeps one program for each of their values.
        return _compiled(made, tuple(sorted(static.items())))(*arrays)

    def batch(arrays, axes, **static):
        size = next(x.shape[axis] for x, axis in zip(arrays, axes, strict=True) if axis is not None)
        leading = [
            x[None] if axis is None else jnp.moveaxis(x, axis, 0)
            for x, axis in zip(arrays, axes, strict=True)
        ]
        results = fold(size, leading, **static)
        return results, [0] * len(results)

    batching.primitive_batchers[made] = batch
    return call


@functools.cache
def _compiled(made: Primitive, static: tuple[tuple[str, Any], ...]) -> Callable:
    return jax.jit(lambda *arrays: tuple(made.bind(*align(*arrays), **dict(static))))


def spread(x: jax.Array, size: int) -> jax.Array:
    """[size or 1, n, ...] -> [size * n, ...]: a batch folded into the axis behind it."""
    x = jnp.broadcast_to(x, (size, *x.shape[1:]))
    return x.reshape(size * x.shape[1], *x.shape[2:])


def align(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """The arrays, each typed as varying over every manual mesh axis that any of them varies over.

    Under shard_map a value's type says over which mesh axes it may differ, and operations want them
    to agree; what a coder returns varies over all of them. Outside shard_map nothing happens.
    """
    axes = frozenset().union(*(jax.typeof(x).manual_axis_type.varying for x in arrays))

    def mark(x: jax.Array) -> jax.Array:
        missing = tuple(sorted(axes - jax.typeof(x).manual_axis_type.varying))
        return lax.pcast(x, missing, to="varying") if missing else x

    return tuple(map(mark, arrays))


def result(like: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    """What a pallas_call returns: a shape, a dtype, and the manual mesh axes of `like`."""
    axis_type = jax.typeof(like).manual_axis_type
    return jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=axis_type)


def _aval(like: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """The type of a result that is laid out like `like` along its leading axis."""
    spec = PartitionSpec(like.sharding.spec[0], *[None] * (len(shape) - 1))
    sharding = NamedSharding(like.sharding.mesh, spec)
    axis_type = like.manual_axis_type
    return jax.core.ShapedArray(shape, dtype, sharding=sharding, manual_axis_type=axis_type)
