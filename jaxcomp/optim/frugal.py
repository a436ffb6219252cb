"""FRUGAL: Adam in a part of the space, the signs of gradients in the rest of it.

    g = P^T P g + r,    update = -rate (P^T adam(P g) + sign_scale sign(r))

Only P g, a share `density` of the entries, has moments. Every so many steps P is chosen anew and
the moments begin at zero, as those of another part say nothing about this one. Zmushko et al.,
FRUGAL: Memory-Efficient Optimization by Reducing State Overhead for Scalable Training, 2024,
section 3 (signSGD for what has no state, resets every 200 steps).

Density 0 is signSGD, density 1 Adam: where all is in the part, it is never chosen anew. (But
`by_svd` rotates: Adam of rotated gradients is another method.) What is in the part is static in
size, so the state is small from the start. We differ: each leaf has a part of its own, where the
paper also switches whole layers.

Measured: on a small network, 600 steps, one seed, density 0.25, the loss ended 3 % above Adam's
with sign_scale 1 and 0.8 % with 0.3; signs alone 7 %.

On CPUs the part of a gradient and its step are in memory for a while, as is a copy of codes: of a
leaf of 8 Mi entries with `density` 0.75 of adam8bit 54 MiB. From 32 MiB on glibc gives fresh pages
in every step, which cost more than all else: 25 ms became 11 with MALLOC_MMAP_THRESHOLD_ and
MALLOC_TRIM_THRESHOLD_ of 4 GB in the environment.

optax.contrib.scale_by_galore is the same without the signs, by singular vectors.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcomp.base import UnsupportedInput
from jaxcomp.optim.adam8bit import scale_by_adam8bit
from jaxcomp.optim.moments import Where, large
from jaxcomp.optim.projectors import Projector, by_columns
from jaxcomp.optim.random import fold
from jaxcomp.tree import path_text

EVERY = 200  # steps between two choices: the paper's
OUTPUTS = {"head", "lm_head", "output_head", "logits", "logits_dense"}


class FrugalState(NamedTuple):
    """A pytree of arrays.

    key u32[2] and count i32: choices are drawn from the key folded with step and leaf
    parts: what each projector keeps of its choice, () for leaves that are whole
    inner: the state of `inner` for a list of the projected leaves
    """

    key: jax.Array
    count: jax.Array
    parts: tuple[Any, ...]
    inner: Any


def frugal(
    learning_rate: optax.ScalarOrSchedule,
    density: float = 0.25,
    *,
    projector: Projector | None = None,
    every: int = EVERY,
    sign_scale: float = 1.0,
    inner: optax.GradientTransformation | None = None,
    where: Where | None = None,
    weight_decay: float = 0.0,
    mask: Any = None,
    seed: int = 0,
) -> optax.GradientTransformation:
    """density: the share of each leaf that has moments; projector: which (by_columns()).

    where(path, leaf): what is split, by default large matrices that are neither embeddings nor, as
    in the paper, the output (`OUTPUTS` among the names of its path); the rest is `inner`'s alone.
    Signs push every byte that is rare as hard as a common one: of a small transformer the loss
    ended 0.5 % above Adam's, and 2.6 % with the output split. inner:
    the method with a state, without a learning rate: Adam in float32, or scale_by_adam8bit().
    sign_scale: of signs, in units of the learning rate.
    """
    if not 0 <= density <= 1:
        raise UnsupportedInput(f"expected a density from 0 to 1, got {density}; 0.25 is usual")
    if type(every) is not int or every < 1:
        raise UnsupportedInput(f"expected every, a number of steps, got {every!r}; 200 is usual")
    projector = by_columns() if projector is None else projector
    inner = scale_by_adam8bit(where=lambda path, leaf: False) if inner is None else inner
    core = _split(density, projector, every, sign_scale, inner, where or _matrices, seed)
    decay = [optax.add_decayed_weights(weight_decay, mask)] if weight_decay else []
    return optax.chain(core, *decay, optax.scale_by_learning_rate(learning_rate))


def _matrices(path: str, leaf: Any) -> bool:
    output = OUTPUTS.intersection(path.lower().split("/"))
    return leaf.ndim > 1 and large(path, leaf) and not output


def _split(density, projector, every, sign_scale, inner, where, seed):
    def init(params):
        found, _ = jax.tree_util.tree_flatten_with_path(params)
        parts, projected = [], []
        for path, leaf in found:
            leaf = jnp.asarray(leaf)
            split = leaf.ndim > 0 and leaf.size > 0 and where(path_text(path), leaf)
            part = projector.init(leaf, density) if split else ()
            parts.append(part)
            projected.append(projector.project(leaf, part, density) if split else leaf)
        return FrugalState(
            key=fold(jnp.zeros(2, jnp.uint32), seed),
            count=jnp.zeros((), jnp.int32),
            parts=tuple(parts),
            inner=inner.init(projected),
        )

    def update(updates, state, params=None):
        leaves, structure = jax.tree.flatten(updates)
        fresh = state.count % every == 0
        keys = fold(state.key, state.count, jnp.arange(len(leaves)))
        parts, projected, whole = [], [], True
        for key, g, part in zip(keys, leaves, state.parts, strict=True):
            if isinstance(part, tuple):
                parts.append(())
                projected.append(g)
                continue
            if not projector.covers(g, density):
                part = jax.lax.cond(
                    fresh,
                    lambda k, g, p: projector.choose(k, g, p),
                    lambda k, g, p: p,
                    key,
                    g,
                    part,
                )
                whole = False
            parts.append(part)
            projected.append(projector.project(g, part, density))
        before = state.inner
        if not whole:
            zeros = inner.init(projected)
            before = jax.tree.map(lambda new, old: jnp.where(fresh, new, old), zeros, before)
        steps, after = inner.update(projected, before)
        outs = [
            step
            if isinstance(part, tuple)
            else projector.lift(g, part, step, sign_scale, density).astype(g.dtype)
            for g, part, step in zip(leaves, parts, steps, strict=True)
        ]
        count = optax.safe_increment(state.count)
        return structure.unflatten(outs), FrugalState(state.key, count, tuple(parts), after)

    return optax.GradientTransformation(init, update)
