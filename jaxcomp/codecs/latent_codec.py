"""Analysis, rounding, prior, synthesis: what the codecs of learned latents share.

Params are floats that train:

    {"analysis", "prior", "synthesis", "side"}      of latent_transforms, latent_prior, factorized

and `freeze` makes of them, once, what encodes and decodes: integers, and tables.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcomp import entropy
from jaxcomp.nets.fixed_point import fake_quantise

from .latent_prior import LATENT, SIDE, LatentPrior, anchors, scale_of
from .latent_transforms import Analysis, Synthesis, from_planes, to_planes
from .quality import step_of

UNIT = 64  # sides are padded to multiples: side information has 1/64 of the resolution


class Design(NamedTuple):
    """What differs between the codecs; see LatentPrior."""

    name: str
    slices: tuple[int, ...]
    side: int = 64
    width: int = 128
    means: bool = True
    two_passes: int = 0


class Networks(NamedTuple):
    """The modules of a design."""

    analysis: Analysis
    prior: LatentPrior
    synthesis: Synthesis
    side: Any
    latent: Any


@functools.cache
def networks(design: Design) -> Networks:
    """The modules and entropy models of a design."""
    prior = LatentPrior(*design[1:])
    models = entropy.factorized(design.side), entropy.gaussian()
    return Networks(Analysis(sum(design.slices)), prior, Synthesis(), *models)


def init(design: Design, key: Any = None) -> dict[str, Any]:
    """Fresh parameters: a DCT of 16 x 16 blocks, and networks that know nothing yet."""
    return _init(design, jax.random.key(0) if key is None else key)


@functools.partial(jax.jit, static_argnums=0)
def _init(design, key):
    nets = networks(design)
    keys = jax.random.split(key, 4)
    planes, step = jnp.zeros((1, UNIT, UNIT, 3)), jnp.ones(1)
    latents = jnp.zeros((1, UNIT // 16, UNIT // 16, sum(design.slices)))
    return {
        "analysis": nets.analysis.init(keys[0], planes, step),
        "prior": nets.prior.init(keys[1], latents),
        "synthesis": nets.synthesis.init(keys[2], latents),
        "side": nets.side.init(keys[3]),
    }


def train(
    design: Design,
    params: dict[str, Any],
    images: Float[Array, "b h w 3"],
    key: Array,
    quality: Float[Array, " b"],
) -> tuple[Float[Array, "b h w 3"], Float[Array, " b"]]:
    """(images as they would be decoded, bits), differentiable in params.

    Rates are those of latents with uniform noise, images those of rounded latents with a
    straight-through gradient (Minnen and Singh 2020, section 3.4).
    """
    nets, step = networks(design), step_of(quality)
    side_key, latent_key = jax.random.split(key)
    y = nets.analysis.apply(params["analysis"], to_planes(images), step)
    prior = functools.partial(nets.prior.apply, params["prior"])
    z = prior(y, method="summarise")
    noisy = z + jax.random.uniform(side_key, z.shape, minval=-0.5, maxval=0.5)
    bits = nets.side.bits(params["side"], noisy).sum((1, 2, 3))
    known = prior(fake_quantise(z, SIDE), method="begin")
    noise = jax.random.uniform(latent_key, y.shape, minval=-0.5, maxval=0.5)
    first = anchors(y.shape[1:3])[..., None]
    decoded, start = [], 0
    for k, size in enumerate(design.slices):
        part = y[..., start : start + size]
        group = prior(k, known, None, method="group")
        found = fake_quantise(group.mean + _round(part - group.mean), LATENT)
        if k < design.two_passes:
            later = prior(k, known, jnp.where(first, found, 0.0), method="group")
            group = jax.tree.map(lambda a, b: jnp.where(first, a, b), group, later)
            found = fake_quantise(group.mean + _round(part - group.mean), LATENT)
        noisy = part + noise[..., start : start + size]
        bits += nets.latent.bits({}, noisy, scale_of(group.row), group.mean).sum((1, 2, 3))
        known = prior(k, known, found, method="go_on")
        decoded.append(found)
        start += size
    planes = nets.synthesis.apply(params["synthesis"], jnp.concatenate(decoded, -1))
    return from_planes(planes * step[:, None, None, None]), bits


def _round(x):
    """The nearest integers, halves up, with the gradient of the identity."""
    return x + jax.lax.stop_gradient(jnp.floor(x + 0.5) - x)
