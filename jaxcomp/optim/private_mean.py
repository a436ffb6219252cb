"""Gradients of single samples, clipped, added up and hidden in noise before anything is sent.

    out = 1/B (sum_s g_s min(1, C / |g_s|) + sigma C z),     z normal

|g_s| is over all leaves. One sample moves the sum by C at most, so that what a sender sends, and
all that is made of it, is (epsilon, delta)-private for its samples, as privacy_epsilon says:
sketches too, which without noise still tell of the data. Abadi et al., Deep Learning with
Differential Privacy, CCS 2016, algorithm 1; before sketching, Song et al., Sketching for First
Order Method, ICML 2023.

    gradients = jax.vmap(jax.grad(loss), (None, 0))(params, batch)     [samples, ...]
    optax.chain(
        private_mean(clip=1.0, noise=1.1, axis_name="data", seed=secret),
        compressed(summed(count_sketch(0.1), "data")),
        optax.sgd(0.1),
    )

optax.contrib.differentially_private_aggregate is the same for one sender; of several with one seed
all have one noise.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float32

from jaxcomp.base import UnsupportedInput
from jaxcomp.optim.exchange import check_axis, sender_key
from jaxcomp.optim.random import fold, words


class PrivateMeanState(NamedTuple):
    """key u32[2], count i32: noise is the key folded with step, leaf and sender."""

    key: jax.Array
    count: jax.Array


def private_mean(
    clip: float, noise: float, *, seed: int, axis_name: str | None = None
) -> optax.GradientTransformation:
    """Leaves [samples, ...], alike in samples, to their noisy mean [...], of the same dtype.

    clip: C; noise: sigma. seed: a secret of 32 bits at most; who has it can take the noise off.
    axis_name: of senders, who draw apart; each is private by itself, and their mean more so. A
    sample whose gradient is not finite counts as zeros: that it was there must not be seen.
    """
    if not (clip > 0 and noise >= 0):
        raise UnsupportedInput(f"expected clip > 0 and noise >= 0, got {clip} and {noise}")
    if axis_name is not None:
        check_axis(axis_name)

    def init(params):
        return PrivateMeanState(fold(jnp.zeros(2, jnp.uint32), seed), jnp.zeros((), jnp.int32))

    def update(updates, state, params=None):
        leaves, structure = jax.tree.flatten(updates)
        samples = _samples(leaves)
        key = fold(state.key, state.count)
        key = key if axis_name is None else sender_key(key, axis_name)
        rows = [x.astype(jnp.float32).reshape(samples, -1) for x in leaves]
        most = jnp.stack([jnp.abs(x).max(1, initial=0) for x in rows]).max(0)
        fine = jnp.stack([jnp.isfinite(x).all(1) for x in rows]).all(0)
        unit = jnp.where((most > 0) & fine, most, 1)  # so that no square overflows
        square = sum(jnp.square(x / unit[:, None]).sum(1) for x in rows)
        scale = jnp.minimum(1, clip / (unit * jnp.sqrt(jnp.where(square > 0, square, 1))))
        outs = []
        for i, (x, row) in enumerate(zip(leaves, rows, strict=True)):
            row = jnp.where(fine[:, None], row * scale[:, None], 0)
            total = row.sum(0) + noise * clip * normal(fold(key, i), row.shape[1])
            outs.append((total / samples).reshape(x.shape[1:]).astype(x.dtype))
        return structure.unflatten(outs), PrivateMeanState(state.key, state.count + 1)

    return optax.GradientTransformation(init, update)


def normal(key: ArrayLike, size: int) -> Float32[Array, " size"]:
    """Of Box and Muller: from 32 bits, so that none is beyond 6.7, as one of 10^10 would be."""
    half = -(-size // 2)
    radius, angle = words(jnp.asarray(key), (2, half)).astype(jnp.float32) * 2.0**-32
    radius = jnp.sqrt(-2 * jnp.log(jnp.maximum(radius, 2.0**-32)))
    angle = 2 * np.float32(np.pi) * angle
    return jnp.concatenate([radius * jnp.cos(angle), radius * jnp.sin(angle)])[:size]


def _samples(leaves):
    shapes = [jnp.shape(x) for x in leaves]
    counts = {shape[0] if shape else 0 for shape in shapes}
    if len(counts) != 1 or 0 in counts:
        raise UnsupportedInput(
            f"expected gradients [samples, ...], not their mean, got {shapes}; "
            "jax.vmap(jax.grad(loss), (None, 0)) makes them"
        )
    return counts.pop()
