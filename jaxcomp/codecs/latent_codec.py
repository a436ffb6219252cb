"""Analysis, rounding, prior, synthesis: what the codecs of learned latents share.

Params are floats that train:

    {"analysis", "prior", "synthesis", "side"}      of latent_transforms, latent_prior, factorized

and `freeze` makes of them, once, what encodes and decodes: integers, and tables.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

from jaxcomp import entropy
from jaxcomp.nets.fixed_point import fake_quantise
from jaxcomp.nets.gain import Gain, multiply

from . import latent_blocks
from .latent_plane import lattice
from .latent_prior import (
    LATENT,
    LEVEL_BITS,
    OCTAVES,
    SCALES,
    SIDE,
    LatentPrior,
    level_of,
    scale_of,
)
from .latent_rounding import decide
from .latent_transforms import BLOCK, Analysis, Synthesis, from_planes, to_planes
from .quality import RATE_WEIGHT, STEP_BITS, step_of

UNIT = 64  # sides are padded to multiples: side information has 1/64 of the resolution
# Noise as wide as a step has a deviation of 0.29: no density of noisy latents is narrower.
NOISE_SCALE = 12**-0.5
GAIN_BITS = 10


class Design(NamedTuple):
    """What differs between the codecs; see LatentPrior."""

    name: str
    slices: tuple[int, ...]
    side: int = 64
    width: int = 96
    means: bool = True
    passes: tuple[int, ...] = ()
    split: bool = False
    direct: bool = False


class Networks(NamedTuple):
    """The modules of a design."""

    analysis: Analysis
    prior: LatentPrior
    synthesis: Synthesis
    gain: Gain
    side: Any
    latent: Any


@functools.cache
def networks(design: Design) -> Networks:
    """The modules and entropy models of a design."""
    channels = sum(design.slices)
    prior = LatentPrior(*design[1:])
    models = entropy.factorized(max(design.side, 1)), entropy.gaussian(scales=SCALES)
    gain = Gain(channels, OCTAVES, (1.0, 1.0), tied=True)
    analysis = Analysis(3 * BLOCK**2 if design.split else channels)
    return Networks(analysis, prior, Synthesis(), gain, *models)


def init(design: Design, key: Any = None) -> dict[str, Any]:
    """Fresh parameters: a DCT of 16 x 16 blocks, and networks that know nothing yet."""
    return _init(design, jax.random.key(0) if key is None else key)


@functools.partial(jax.jit, static_argnums=0)
def _init(design, key):
    nets = networks(design)
    keys = jax.random.split(key, 5)
    planes, step = jnp.zeros((1, UNIT, UNIT, 3)), jnp.ones(1)
    latents, *modes = example(design)
    return {
        "analysis": nets.analysis.init(keys[0], planes, step),
        "prior": nets.prior.init(keys[1], latents, jnp.zeros(1, jnp.int32), *modes),
        "synthesis": nets.synthesis.init(keys[2], joined(latents, *modes), *modes),
        "side": nets.side.init(keys[3]),
        "gain": nets.gain.init(keys[4], 0.0),
    }


def example(design: Design) -> tuple[Array, ...]:
    """Latents of one unit, and the modes of its blocks where blocks have modes: for shapes."""
    shape = 1, UNIT // BLOCK, UNIT // BLOCK
    latents = jnp.zeros((*shape, sum(design.slices)))
    return (latents, jnp.zeros(shape, jnp.int32)) if design.split else (latents,)


def coded(
    design: Design, y: Float[Array, "b h w n"]
) -> tuple[Float[Array, "b h w c"], Int32[Array, "b h w"] | None]:
    """(the latents that are coded, the modes of their blocks) of what analysis says."""
    if not design.split:
        return y, None
    modes = latent_blocks.choose(y)
    return latent_blocks.split(y, modes)[..., : sum(design.slices)], modes


def joined(latents: Array, modes: Array | np.ndarray | None = None) -> Array:
    """Latents as synthesis takes them: of whole blocks."""
    return latents if modes is None else latent_blocks.join(latents, modes)


def train(
    design: Design,
    params: dict[str, Any],
    images: Float[Array, "b h w 3"],
    key: Array,
    quality: Float[Array, " b"],
) -> tuple[Float[Array, "b h w 3"], Float[Array, " b"]]:
    """(images as they would be decoded, bits as they would be coded), differentiable in params.

    Latents are rounded as the encoder does it, with a straight-through gradient (Minnen and Singh
    2020, section 3.4, for images; here for bits too, so that priors learn what is coded). What
    analysis learns of bits is the rate of latents with uniform noise (Balle et al. 2018).
    """
    nets = networks(design)
    whole = jnp.round(step_of(quality) * (1 << STEP_BITS)).astype(jnp.int32)
    step, level = whole / (1 << STEP_BITS), level_of(whole)
    gain, inverse = nets.gain.apply(params["gain"], level / (1 << LEVEL_BITS))
    gain, inverse = gain[:, None, None], inverse[:, None, None]  # [b, 1, 1, c]
    y = nets.analysis.apply(params["analysis"], to_planes(images), step)
    y, modes = coded(design, y)
    y = y * gain
    prior = functools.partial(nets.prior.apply, params["prior"])
    side_key, latent_key = jax.random.split(key)
    z = prior(y, method="summarise")
    noise = jax.random.uniform(side_key, z.shape, minval=-0.5, maxval=0.5)
    bits = nets.side.bits(params["side"], z + noise).sum((1, 2, 3)) if design.side else 0.0
    z = fake_quantise(z, SIDE)
    known = prior(z, level, modes, method="begin")
    noise = jax.random.uniform(latent_key, y.shape, minval=-0.5, maxval=0.5)
    weight = RATE_WEIGHT * jax.lax.stop_gradient(gain) ** 2
    decoded, start = [], 0
    for k, size in enumerate(design.slices):
        channels = slice(start, start + size)
        part, passes = y[..., channels], nets.prior.passes_of(k)
        order = lattice(y.shape[1:3], passes)[..., None]
        found = jnp.zeros_like(part)
        for number in range(passes):
            group = prior(k, number, known, found, z, method="group")
            rounded = _round(part - group.mean, group.row, weight[..., channels])
            here = fake_quantise(group.mean + rounded, LATENT)
            found = jnp.where(order == number, here, found)
            whole = group if number == 0 else _select(order == number, group, whole)
        fixed = jax.lax.stop_gradient(found)
        hard = nets.latent.bits({}, fixed, scale_of(whole.row), whole.mean)
        sight = jax.lax.stop_gradient(whole)
        scale = jnp.hypot(scale_of(sight.row), NOISE_SCALE)
        soft = _slope_of_bits(part + noise[..., channels], scale, sight.mean)
        bits = bits + (hard + soft).sum((1, 2, 3))
        known = prior(k, known, found, method="go_on")
        decoded.append(found)
        start += size
    found = _regain(jnp.concatenate(decoded, -1), inverse)
    planes = nets.synthesis.apply(params["synthesis"], joined(found, modes), modes)
    return from_planes(planes * step[:, None, None, None]), bits


@jax.custom_vjp
def _slope_of_bits(noisy, scale, mean):
    """0, with the gradient of the bits of noisy latents: nothing to compute where none is asked."""
    return jnp.zeros_like(noisy)


def _slope_forward(*arguments):
    return jnp.zeros_like(arguments[0]), arguments


def _slope_backward(arguments, gradient):
    noisy, scale, mean = arguments
    _, pull = jax.vjp(lambda y: entropy.gaussian(scales=SCALES).bits({}, y, scale, mean), noisy)
    return *pull(gradient), jnp.zeros_like(scale), jnp.zeros_like(mean)


_slope_of_bits.defvjp(_slope_forward, _slope_backward)


def _select(mask, new, old):
    return jax.tree.map(lambda a, b: jnp.where(mask, a, b), new, old)


def _round(x, row, weight):
    """The integers that the encoder takes, with the gradient of the identity."""
    return x + jax.lax.stop_gradient(decide(x, row, weight) - x)


def _regain(y, inverse):
    """Latents times inverse gains, as integers compute it; the gradient is the product's."""
    rows = jnp.round(inverse * (1 << GAIN_BITS)).astype(jnp.int32)
    exact = multiply(y, rows, source=LATENT, target=LATENT, fraction=GAIN_BITS)
    smooth = y * inverse
    return smooth + jax.lax.stop_gradient(exact - smooth)
