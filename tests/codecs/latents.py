"""Latents of which a prior may know something, and priors trained on them."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcomp import entropy
from jaxcomp.codecs.latent_codec import Design
from jaxcomp.codecs.latent_plane import lattice
from jaxcomp.codecs.latent_prior import SCALES, SIDE, LatentPrior, scale_of
from jaxcomp.nets.fixed_point import fake_quantise
from tests.codecs.designs import QUICK

ROWS = (0, 1, 2, 3, 4, 0, 1, 2)  # of five random rows, which one each channel has


def loud_blocks(seed: int) -> jax.Array:
    """f32[2, 16, 16, 16] for side information: blocks of 4 x 4 are loud or quiet, and have means.

    Means are those of the three channels that side information begins with. Rows differ as well.
    """
    rng = np.random.default_rng(seed)
    rows = _rows(rng, 0.5, 8.0)
    rows[..., :3] = 2.0
    y = rng.normal(0, 1, (2, 16, 16, 16)) * rows
    y *= _of_blocks(rng.choice([0.25, 4.0], (2, 4, 4, 1)))
    y[..., :3] += _of_blocks(rng.normal(0, 60, (2, 4, 4, 3)))
    return jnp.asarray(y, jnp.float32)


def loud_rows(seed: int) -> jax.Array:
    """f32[2, 16, 16, 16] for contexts: rows of each channel are loud or quiet, as neighbours tell.

    Too many for side information; but eight channels and the eight after them share them.
    """
    rng = np.random.default_rng(seed)
    rows = _rows(rng, 0.3, 16.0)
    return jnp.asarray(rng.normal(0, 1, (2, 16, 16, 16)) * rows, jnp.float32)


def _rows(rng, quiet, loud):
    return rng.choice([quiet, loud], (2, 16, 1, 5))[..., ROWS + ROWS]


def _of_blocks(numbers):
    return np.kron(numbers, np.ones((1, 4, 4, 1)))


def _join(keep):
    return lambda old, new: jnp.where(keep, old, new)


def trained_bits(
    design: Design, fields: Callable[[int], jax.Array], *, steps: int, rate: float
) -> float:
    """Bits per latent, side information included, of fields never seen, after training."""
    prior = LatentPrior(*design[1:])
    side, latent = entropy.factorized(max(design.side, 1)), entropy.gaussian(scales=SCALES)
    level = jnp.full(2, 64)

    def bits(params, y, key):
        keys = jax.random.split(key)
        run = functools.partial(prior.apply, params["prior"])
        z = run(y, method="summarise")
        noisy = z + jax.random.uniform(keys[0], z.shape, minval=-0.5, maxval=0.5)
        total = side.bits(params["side"], noisy).sum() if design.side else 0.0
        known, start = run(z := fake_quantise(z, SIDE), level, method="begin"), 0
        noise = jax.random.uniform(keys[1], y.shape, minval=-0.5, maxval=0.5)
        for k, size in enumerate(design.slices):
            part = y[..., start : start + size]
            order = lattice((16, 16), prior.passes_of(k))[..., None]
            group = None
            for number in range(prior.passes_of(k)):
                shown = jnp.where(order < number, part, 0.0)
                here = run(k, number, known, shown, z, method="group")
                # Later passes take the place of earlier ones where they decide.
                keep = order < number
                group = here if group is None else jax.tree.map(_join(keep), group, here)
            noisy = part + noise[..., start : start + size]
            total += latent.bits({}, noisy, scale_of(group.row), group.mean).sum()
            known = run(k, known, part, method="go_on")
            start += size
        return total / y.size

    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "prior": jax.jit(prior.init, compiler_options=QUICK)(keys[0], fields(0), level),
        "side": side.init(keys[1]),
    }
    transform = optax.adam(optax.cosine_decay_schedule(rate, steps))
    state = transform.init(params)

    @jax.jit
    def step(params, state, y, key):
        value, gradient = jax.value_and_grad(bits)(params, y, key)
        update, state = transform.update(gradient, state, params)
        return optax.apply_updates(params, update), state, value

    for i in range(steps):
        params, state, _ = step(params, state, fields(i), jax.random.fold_in(keys[2], i))
    unseen = [step(params, state, fields(10**6 + i), keys[2])[2] for i in range(8)]
    return float(np.mean(unseen))
