"""A dot_general against a view, as vectors times a matrix and back.

plan() answers which axes of the weight are summed over and which are batched, and gives two plain
functions: `vectors` brings the other operand to [*batch, rows, in], `finish` brings what a product
[*batch, rows, *free axes] made of it to the result that dot_general would have had.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcomp.formats.leaf import Leaf, map_leading
from jaxcomp.lift.view import Atom, View, axis_size, place, whole_axes


class Plan(NamedTuple):
    contracted: tuple[int, ...]  # axes of the source that are summed over, from the right
    batch: tuple[int, ...]  # axes of the source that are paired with axes of x
    first: bool  # whether the weight is the left operand
    vectors: Callable[[jax.Array], jax.Array]
    finish: Callable[[jax.Array], jax.Array]


def plan(view: View, x_shape: tuple[int, ...], dimension_numbers, *, first: bool) -> Plan | str:
    """A Plan, or why there is none. first: the view is the left operand."""
    (left, right), (left_batch, right_batch) = dimension_numbers
    if first:
        over, x_over, paired, x_paired = left, right, left_batch, right_batch
    else:
        over, x_over, paired, x_paired = right, left, right_batch, left_batch
    shape = view.source.array.shape
    free = [i for i in range(len(view.axes)) if i not in over and i not in paired]
    x_free = [i for i in range(len(x_shape)) if i not in x_over and i not in x_paired]

    def atoms(axes):
        return [atom for i in axes for atom in view.axes[i]]

    over_atoms, batch_atoms, free_atoms = atoms(over), atoms(paired), atoms(free)
    contracted = whole_axes([a for a in over_atoms if a.axis is not None], shape)
    batch = whole_axes([a for a in batch_atoms if a.axis is not None], shape)
    if contracted is None or batch is None or set(contracted) & set(batch):
        return "it is multiplied along a part of an axis"
    if over and not contracted:
        # Axes of size 1 have no atoms, and no operation can tell one from another.
        ones = {i - len(shape) for i, size in enumerate(shape) if size == 1}
        contracted = tuple(sorted(ones - {axis for axis, _ in view.source.at}))[-1:]
    watched = not isinstance(view.source.array, Leaf)
    if watched and view.source.cuts & {*contracted, *batch}:
        return "it is multiplied along a part of an axis"
    if not contracted:
        return "nothing is summed over"

    real = [a for a in batch_atoms if a.axis is not None]
    repeated = [a for a in batch_atoms if a.axis is None]
    x_free_sizes = [x_shape[i] for i in x_free]

    def vectors(x: jax.Array) -> jax.Array:
        x = x.transpose(*x_paired, *x_free, *x_over)
        x = x.reshape(*_sizes(batch_atoms), *x_free_sizes, *_sizes(over_atoms))
        start = len(batch_atoms) + len(x_free)
        summed = [start + i for i, a in enumerate(over_atoms) if a.axis is None]
        kept = [a for a in over_atoms if a.axis is not None]
        x = x.sum(tuple(summed)) if summed else x
        order = [batch_atoms.index(a) for a in sorted(real, key=place)]
        order += [i for i, a in enumerate(batch_atoms) if a.axis is None]
        order += range(len(batch_atoms), start)
        order += [start + kept.index(a) for a in sorted(kept, key=place)]
        x = x.transpose(order)
        rows = math.prod(_sizes(repeated)) * math.prod(x_free_sizes)
        size = math.prod(_sizes(kept))
        return x.reshape(*(shape[axis] for axis in batch), rows, size)

    def finish(out: jax.Array) -> jax.Array:
        own = [a for a in free_atoms if a.axis is not None]
        ordered = sorted(own, key=place)
        have = [("batch", a) for a in sorted(real, key=place)]
        have += [("repeated", i) for i in range(len(repeated))]
        have += [("x", i) for i in range(len(x_free))]
        have += [("free", a) for a in ordered]
        sizes = [*_sizes(sorted(real, key=place)), *_sizes(repeated), *x_free_sizes]
        out = out.reshape(*sizes, *_sizes(ordered))
        count = iter(range(len(repeated)))
        want = [
            ("batch", a) if a.axis is not None else ("repeated", next(count)) for a in batch_atoms
        ]
        ours = [("free", a) for a in own]
        theirs = [("x", i) for i in range(len(x_free))]
        want += [*ours, *theirs] if first else [*theirs, *ours]
        out = out.transpose([have.index(key) for key in want])
        return _spread(out, view, paired, x_free_sizes, free, first)

    return Plan(contracted, batch, first, vectors, finish)


def _sizes(atoms: list[Atom]) -> list[int]:
    return [atom.size for atom in atoms]


def _spread(out, view, paired, x_free_sizes, free, first) -> jax.Array:
    """Broadcast atoms among the free axes come in, and atoms become axes."""
    lead = [a for i in paired for a in view.axes[i]]
    own = [a for i in free for a in view.axes[i]]
    present = [True] * len(lead)
    wide = [*_sizes(lead)]
    groups = [
        (_sizes(own), [a.axis is not None for a in own]),
        (x_free_sizes, [True] * len(x_free_sizes)),
    ]
    for sizes, there in groups if first else groups[::-1]:
        wide += sizes
        present += there
    out = jax.lax.broadcast_in_dim(out, wide, [i for i, there in enumerate(present) if there])
    ours = [axis_size(view.axes[i]) for i in free]
    tail = [*ours, *x_free_sizes] if first else [*x_free_sizes, *ours]
    return jnp.reshape(out, [*(axis_size(view.axes[i]) for i in paired), *tail])


def transposed(x: jax.Array, w: Leaf, batch: int) -> jax.Array:
    """x [*batch, m, other free axes] times the transposed weight -> [*batch, m, in].

    A product is linear in x, and what its transpose is, its gradient knows: without a dense weight.
    """
    if batch:
        return map_leading(lambda w, x: transposed(x, w, batch - 1), w, x)
    size = math.prod(size for _, size in w.packed)
    out, pull = jax.vjp(w.matmul, jnp.zeros((x.shape[0], size), x.dtype))
    (found,) = pull(x.reshape(out.shape))
    return found


def rounds(leaf: Leaf) -> bool:
    """Whether the leaf, or a leaf in it, rounds what it multiplies: it is not linear then."""
    if getattr(leaf, "activation", None) is not None:
        return True
    fields = [getattr(leaf, field.name) for field in dataclasses.fields(leaf)]
    inner = [x for field in fields for x in (field if isinstance(field, tuple) else (field,))]
    return any(rounds(x) for x in inner if isinstance(x, Leaf))
