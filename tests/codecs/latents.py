"""Latents whose channels and neighbours resemble each other, and priors trained on them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcomp import entropy
from jaxcomp.codecs.latent_codec import Design
from jaxcomp.codecs.latent_plane import lattice
from jaxcomp.codecs.latent_prior import SCALES, SIDE, LatentPrior, scale_of
from jaxcomp.nets.fixed_point import fake_quantise

STEPS = 400


def fields(seed: int) -> jax.Array:
    """f32[2, 16, 16, 16]: eight fields of blocks and waves, then the same with a little noise."""
    rng = np.random.default_rng(seed)
    blocks = np.kron(rng.normal(0, 30, (2, 4, 4, 1)), np.ones((1, 4, 4, 8)))
    coarse = rng.normal(0, 4, (2, 18, 18, 8))
    waves = sum(coarse[:, i : i + 16, j : j + 16] for i in range(3) for j in range(3)) / 3
    first = blocks + waves
    both = np.concatenate([first, first + rng.normal(0, 0.5, first.shape)], -1)
    return jnp.asarray(both, jnp.float32)


def _join(keep):
    return lambda old, new: jnp.where(keep, old, new)


@functools.cache
def trained_bits(design: Design) -> float:
    """Bits per latent, side information included, of fields never seen, after STEPS steps."""
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
        "prior": jax.jit(prior.init)(keys[0], fields(0), level),
        "side": side.init(keys[1]),
    }
    transform = optax.adam(optax.cosine_decay_schedule(1e-2, STEPS))
    state = transform.init(params)

    @jax.jit
    def step(params, state, y, key):
        value, gradient = jax.value_and_grad(bits)(params, y, key)
        update, state = transform.update(gradient, state, params)
        return optax.apply_updates(params, update), state, value

    for i in range(STEPS):
        params, state, value = step(params, state, fields(i), jax.random.fold_in(keys[2], i))
    tests = [jax.jit(bits)(params, fields(-1 - i + 10**6), keys[2]) for i in range(4)]
    return float(np.mean(tests))
