"""The step of adam8bit on arrays that jit shards by itself: each device steps its own blocks.

A partitioner looks into no kernel, and would gather what a loop cuts. So it is told: leading axes
go their own ways, and the last one goes by whole blocks, wherever all axes of the mesh divide their
number. Elsewhere the last axis is gathered. Under shard_map, whose arrays are shards already, and
under vmap the step is called as it is.

The telling happens through Python, which a compiler for devices that are not there does not call:
what is compiled ahead of time for several of them steps under shard_map.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.custom_batching import custom_vmap
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

Step = Callable[..., tuple[jax.Array, ...]]


def by_shard(step: Step, g: jax.Array, *arrays: jax.Array, **static: Any) -> tuple[jax.Array, ...]:
    """step(g, numbers, codes, scales, ..., **static), by shards where jit has cut the arrays."""
    if any(jax.typeof(x).manual_axis_type.varying for x in (g, *arrays)):
        return step(g, *arrays, **static)
    return _made(step, tuple(sorted(static.items())))(g, *arrays)


@functools.cache
def _made(step: Step, static: tuple[tuple[str, Any], ...]) -> Step:
    alone = functools.partial(step, **dict(static))
    maps, block = dict(static)["maps"], dict(static)["block"]
    cut = custom_partitioning(lambda *arrays: alone(*arrays))

    def divides(mesh, n):
        return not any(n // block % size for size in mesh.shape.values())

    def cut_as(mesh, g):
        names = g.sharding.spec
        if len(names) == len(g.shape) and not divides(mesh, g.shape[-1]):
            names = names[:-1]
        return NamedSharding(mesh, PartitionSpec(*names))

    def partition(mesh, arguments, results):
        lies, everywhere = cut_as(mesh, arguments[0]), NamedSharding(mesh, PartitionSpec())
        inside = (lies, everywhere, *[lies] * (len(arguments) - 2))
        return mesh, alone, (lies,) * len(results), inside

    def rule(mesh, arguments, results):
        each = range(len(maps))
        if not divides(mesh, arguments[0].shape[-1]):  # the last axes do not follow each other
            parts = ", ".join(f"... c{i}, ... s{i}" for i in each)
            return f"... n, k, {parts} -> ... n, {parts}"
        parts = ", ".join(f"... (s c{i}), ... s" for i in each)
        sizes = {f"c{i}": block * map.bits // 8 for i, map in enumerate(maps)}
        return f"... (s b), k, {parts} -> ... (s b), {parts}", {"b": block, **sizes}

    cut.def_partition(
        partition,
        infer_sharding_from_operands=lambda mesh, shapes, results: (
            (cut_as(mesh, shapes[0]),) * len(results)
        ),
        sharding_rule=rule,
    )
    batched = custom_vmap(lambda *arrays: cut(*arrays))

    @batched.def_vmap
    def _(size, in_batched, *arrays):
        axes = [0 if batch else None for batch in in_batched]
        results = jax.vmap(alone, axes)(*arrays)
        return results, (True,) * len(results)

    return batched
