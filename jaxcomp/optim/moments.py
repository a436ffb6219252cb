"""Moments of optimizers as codes in blocks: which leaves, how they lie, and one step of a tree.

A block runs along the fewest trailing axes of a leaf that hold whole blocks: mostly the last one.
Where not even all of them do, it runs along all, and the last block is shorter. Codes of 8 bits
have the leaf's own shape and scales that of its other axes, then blocks; so they are sharded as the
leaf is, wherever a shard has whole blocks (`state_shardings`).

Other leaves, by default those below 4096 entries and embeddings, have moments in float32. So are
all sums, whatever the dtype of gradients; updates come out in that dtype.

Gradients that are not finite, or whose moments are not, leave updates of NaN, so that they are
seen, and the moments of their block (of the entry alone, in float32) as they were.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from jaxcomp.base import UnsupportedInput
from jaxcomp.formats.leaf import check_floating
from jaxcomp.kernels import adam8bit as kernel
from jaxcomp.kernels.adam8bit import Moment
from jaxcomp.kernels.adam8bit_lax import LARGEST
from jaxcomp.kernels.dynamic_map import Map, encode
from jaxcomp.optim.sharded import check_shapes
from jaxcomp.tree import path_text

SMALL = 4096  # entries below which a leaf is not worth its scales; bitsandbytes' number

Where = Callable[[str, Any], bool]


class MomentsState(NamedTuple):
    """A pytree of arrays. count i32 of steps; moments: trees like the parameters, one for each.

    A leaf of one is f32 like the parameter, or Moment(codes u8, scales f32).
    """

    count: jax.Array
    moments: tuple[Any, ...]


def large(path: str, leaf: Any) -> bool:
    """The default of where: 4096 entries or more, and no "embed" in the path.

    Rows of embeddings have gradients that are mostly zero, and then large ones.
    """
    return leaf.size >= SMALL and "embed" not in path.lower()


class Layout(NamedTuple):
    """lead axes, and n entries behind them, `filling` more than there are; a multiple of block."""

    lead: tuple[int, ...]
    n: int
    filling: int


def layout(shape: tuple[int, ...], block: int) -> Layout:
    """How the blocks of a leaf lie, by the rule above."""
    for first in range(len(shape) - 1, -1, -1):
        n = math.prod(shape[first:])
        if n % block == 0:
            return Layout(shape[:first], n, 0)
    size = math.prod(shape)
    return Layout((), size + -size % block, -size % block)


def moments(
    rule: kernel.Rule,
    maps: tuple[Map, ...],
    numbers: Callable[[jax.Array], list[ArrayLike]],
    *,
    block: int,
    where: Where | None,
    float32_updates: bool = False,
) -> optax.GradientTransformation:
    """A rule of kernels.adam8bit over a tree. numbers(count of this step, from 1) -> the rule's."""
    if type(block) is not int or block < 16 or block % 16:
        raise UnsupportedInput(f"expected block, a multiple of 16, got {block!r}; 256 is usual")
    where = large if where is None else where

    def init(params):
        found, structure = jax.tree_util.tree_flatten_with_path(params)
        for path, leaf in found:
            check_floating(jnp.asarray(leaf), path_text(path))
        trees = []
        for map in maps:
            leaves = [
                _zeros(jnp.shape(leaf), map, block)
                if jnp.size(leaf) and where(path_text(path), leaf)
                else jnp.zeros(jnp.shape(leaf))
                for path, leaf in found
            ]
            trees.append(structure.unflatten(leaves))
        return MomentsState(jnp.zeros((), jnp.int32), tuple(trees))

    def update(updates, state, params=None):
        leaves, structure = jax.tree.flatten(updates)
        count = optax.safe_increment(state.count)
        each = [jnp.asarray(x, jnp.float32) for x in numbers(count)]
        held = [structure.flatten_up_to(tree) for tree in state.moments]
        outs, news = [], []
        for g, *old in zip(leaves, *held, strict=True):
            step = _in_blocks if isinstance(old[0], Moment) else _in_float32
            out, new = step(rule, maps, block, jnp.asarray(g), tuple(old), each)
            outs.append(out if float32_updates else out.astype(jnp.asarray(g).dtype))
            news.append(new)
        trees = [structure.unflatten([new[i] for new in news]) for i in range(len(maps))]
        return structure.unflatten(outs), MomentsState(count, tuple(trees))

    return optax.GradientTransformation(init, update)


def _zeros(shape: tuple[int, ...], map: Map, block: int) -> Moment:
    lead, n, filling = layout(shape, block)
    zero = encode(jnp.zeros(()), map).astype(jnp.uint8)
    of = shape if map.bits == 8 else (*lead, n * map.bits // 8)
    if map.bits == 4:
        zero |= zero << 4
    return Moment(jnp.full(of, zero, jnp.uint8), jnp.zeros((*lead, n // block)))


def _in_blocks(rule, maps, block, g, old, numbers):
    if maps[0].bits == 8:
        check_shapes(g, old[0].codes)
    lead, n, filling = layout(g.shape, block)

    def laid(x):
        return jnp.pad(x.reshape(-1), (0, filling)) if filling else x.reshape(*lead, n)

    def back(x):
        return (x[: g.size] if filling else x).reshape(g.shape)

    rows = tuple(
        Moment(laid(m.codes) if map.bits == 8 else m.codes, m.scales)
        for m, map in zip(old, maps, strict=True)
    )
    out, new = kernel.run(rule, laid(g), rows, jnp.stack(numbers), maps=maps, block=block)
    return back(out), tuple(
        Moment(back(m.codes) if map.bits == 8 else m.codes, m.scales)
        for m, map in zip(new, maps, strict=True)
    )


def _in_float32(rule, maps, block, g, old, numbers):
    check_shapes(g, old[0])
    out, new = rule(g.astype(jnp.float32), old, numbers)
    fits = functools.reduce(jnp.logical_and, (jnp.abs(x) <= LARGEST for x in new))
    kept = tuple(jnp.where(fits, x, y) for x, y in zip(new, old, strict=True))
    return jnp.where(fits, out, jnp.nan), kept


def check_rate(name: str, value: Any) -> None:
    """UnsupportedInput for a decay of moments that is known and outside [0, 1)."""
    if isinstance(value, int | float) and not 0 <= value < 1:
        raise UnsupportedInput(
            f"expected {name} of at least 0 and below 1, got {value}; 0.9 is usual"
        )


def state_shardings(state: Any, params: Any) -> Any:
    """A NamedSharding for every array of an optimizer's state, from those of the parameters.

    state: of optax with states of this folder inside, or what jax.eval_shape makes of its init.
    params: a tree of NamedShardings. Moments lie as their parameter; scales too where a shard of it
    has whole blocks, else whole along that axis. All else is on every device, moments of what is
    no parameter too, as of the parts of frugal.
    """
    shardings, structure = jax.tree.flatten(params)
    everywhere = NamedSharding(shardings[0].mesh, PartitionSpec())

    def one(sharding, held):
        if isinstance(held, tuple) and not isinstance(held, Moment):  # optax.masked has left it out
            return held
        if not isinstance(held, Moment):
            return sharding
        mesh = sharding.mesh
        names = [*sharding.spec, *[None] * held.scales.ndim][: held.scales.ndim]

        def divides(name, size):
            over = (name,) if isinstance(name, str) else name or ()
            return size % math.prod(mesh.shape[axis] for axis in over) == 0

        pairs = zip(names, held.scales.shape, strict=True)
        whole = PartitionSpec(*(name if divides(name, size) else None for name, size in pairs))
        scales = NamedSharding(mesh, whole)
        # Codes of 8 bits have the leaf's shape, those of 4 the axes of the scales.
        fits = held.codes.ndim != held.scales.ndim or all(map(divides, names, held.codes.shape))
        return Moment(sharding if fits else scales, scales)

    def follows(tree):
        try:
            held = structure.flatten_up_to(tree)
        except (ValueError, TypeError):
            return False
        return not any(isinstance(m, list | dict) for m in held)

    def each(x):
        if not isinstance(x, MomentsState) or not all(map(follows, x.moments)):
            return jax.tree.map(lambda _: everywhere, x)
        trees = [
            structure.unflatten(
                [one(s, m) for s, m in zip(shardings, structure.flatten_up_to(t), strict=True)]
            )
            for t in x.moments
        ]
        return MomentsState(everywhere, tuple(trees))

    return jax.tree.map(each, state, is_leaf=lambda x: isinstance(x, MomentsState))
