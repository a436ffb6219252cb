"""Latents of a photo improved by what its own decoder says of them, at encoding time.

    minimise  bits(q, z) + |painted(q) - samples|**2 / (RATE_WEIGHT * step**2)      over integers q

Each latent's own bits are the business of the encoder's rounding (latent_rounding.decide): the rule
is a proximal step, and everything else, what synthesis makes of a latent and what it tells the
prior of those after it, is followed by its gradient at the rounded latents q:

    y <- y + RATE * (target - y),    target = q - (gradient + temperature * noise) / curvature

Synthesis is nearly orthonormal, so the curvature is known: 2 / (RATE_WEIGHT * weight). Rounding
then takes the better of two neighbours under that model; logistic noise, a difference of two
Gumbels, of falling temperature makes it draw one of them with odds exp(-cost / temperature). All
iterates are rounded, so each has a true cost: the best is kept, and nothing gets worse.

Iterative encoding: J. Campos et al., Content adaptive optimization for neural image compression,
CVPR workshops 2019. Annealing, in relaxed variables: Y. Yang, R. Bamler and S. Mandt, Improving
inference for neural image compression, NeurIPS 2020, section 3.2; in the 200 iterations that an
encoder may have time for it gained a third of this. Proximal steps: A. Beck and M. Teboulle, A fast
iterative shrinkage-thresholding algorithm, 2009, section 2. Side information stays: moving it too
changed costs by a quarter of a percent at most, not always down.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient
from jaxtyping import Array, Float, Int, Int32, UInt8

from jaxcomp.base import JaxcompError
from jaxcomp.coding import Tables
from jaxcomp.nets import gain
from jaxcomp.nets.fixed_point import dequantise, fake_quantise, inward, quantise
from jaxcomp.nets.integer import COLLECTION
from jaxcomp.nets.integer_layer import Options, float_layer, run
from jaxcomp.nets.integer_weights import IntegerWeights, dequantise_weights

from .dct_transform import to_samples
from .latent_codec import GAIN_BITS, Design, joined, networks
from .latent_frozen import WIDE_SLICES, Frozen
from .latent_plane import lattice
from .latent_prior import LATENT, level_of, scale_of
from .latent_rounding import MOST_BITS, SILENT_ROWS, decide
from .latent_transforms import BLOCK, PIXEL, STEP_BITS, from_planes, scale_planes
from .quality import RATE_WEIGHT

# How far latents go towards their targets. All move at once: a whole step makes some turn back.
RATE = 0.7
# At first, in bits, and none for the last COLD of all iterations. Of 0, 3, 6 and 12, 3 was best.
TEMPERATURE = 3.0
COLD = 0.2


def refine(
    design: Design,
    frozen: Frozen,
    y: Float[Array, "1 h w c"],
    modes: Int32[Array | np.ndarray, "1 h w"] | None,
    weight: Float[Array, " c"],
    z: Int[Array | np.ndarray, "1 hz wz side"],
    samples: UInt8[np.ndarray, "height width 3"],
    step: int,
    iterations: int,
    *,
    progress: Callable[[int, float], Any] | None = None,
) -> Float[Array, "1 h w c"]:
    """y to round in place of the y that analysis gave; weight, modes and z stay. Never worse.

    samples: of the photo or tile, at most BLOCK to a latent; step in 1/16. progress(i, cost) hears
    the lowest cost after i iterations, in bits without side information. Raises JaxcompError for a
    negative count, or too many samples.
    """
    if iterations < 0:
        raise JaxcompError(f"expected 0 or more iterations, got {iterations}")
    target = _pad(samples, y.shape)
    state = _State(y, y, jnp.float32(jnp.inf))
    # One more look than steps: the last y is judged as well.
    for number in range(iterations + 1 if iterations else 0):
        warmth = max(0.0, 1 - number / ((1 - COLD) * iterations))
        temperature, key = jnp.float32(TEMPERATURE * warmth), jax.random.key(number)
        state = _improve(
            design, frozen, state, modes, weight, z, *target, np.int32(step), temperature, key
        )
        if progress is not None:
            progress(number, float(state.cost))
    return state.best


def _pad(samples, shape):
    """f32[1, h, w, 3], as many samples as latents paint, and which of them exist."""
    height, width = (BLOCK * n for n in shape[1:3])
    if samples.shape[0] > height or samples.shape[1] > width:
        raise JaxcompError(
            f"expected samples of at most {height} x {width}, got {samples.shape}; pass those of "
            "the tile that y is of"
        )
    around = [(0, height - samples.shape[0]), (0, width - samples.shape[1]), (0, 0)]
    exists = np.pad(np.ones((*samples.shape[:2], 1), bool), around)
    return np.pad(samples.astype(np.float32), around)[None], exists[None]


class _State(NamedTuple):
    y: Array
    best: Array
    cost: Array  # of the best


@functools.partial(jax.jit, static_argnums=0)
def _improve(design, frozen, state, modes, weight, z, samples, exists, step, temperature, key):
    """Judge y, keep it if it is the best, and go on from it."""

    def objective(y):
        return _look(design, frozen, y, modes, weight, z, samples, exists, step)

    gradient, (cost, latents) = jax.grad(objective, has_aux=True)(state.y)
    better = cost < state.cost
    best = jnp.where(better, state.y, state.best)
    noise = temperature * jax.random.logistic(key, state.y.shape)
    target = latents - 0.5 * RATE_WEIGHT * weight * (gradient + noise)
    y = state.y + RATE * (target - state.y)
    return _State(y, best, jnp.where(better, cost, state.cost))


def _look(design, frozen, y, modes, weight, z, samples, exists, step):
    """(what gradients are taken of, (cost in bits of what is written and painted, latents))."""
    nets, size = networks(design), step / (1 << STEP_BITS)
    with nn.intercept_methods(_by_stored_integers):
        found, soft_bits, bits = _walk(design, frozen, y, modes, weight, z, step)
        regained = gain.multiply(
            found,
            frozen.inverse_gains[level_of(step)],
            source=LATENT,
            target=LATENT,
            fraction=GAIN_BITS,
        )
        planes = nets.synthesis.apply(frozen.synthesis_integers, joined(regained, modes), modes)
    image = jnp.clip(from_planes(planes * size), 0, 255)
    soft_error = (exists * (image - samples) ** 2).sum()
    painted = scale_planes(quantise(stop_gradient(planes), PIXEL), step)
    painted = jnp.moveaxis(to_samples(jnp.moveaxis(painted, -1, 1)), 1, -1)
    error = (exists * (painted - samples) ** 2).sum()
    per_error = 1 / (RATE_WEIGHT * size**2)
    return soft_bits + per_error * soft_error, (bits + per_error * error, stop_gradient(found))


def _walk(design, frozen, y, modes, weight, z, step):
    """(latents, bits of what prior networks predict, bits of the tables): what a decoder walks."""
    nets = networks(design)
    prior = functools.partial(nets.prior.apply, frozen.prior_integers)
    z = jnp.asarray(z, jnp.float32)
    known, decoded, start = prior(z, level_of(step)[None], modes, method="begin"), [], 0
    soft_bits = bits = jnp.float32(0)
    for k, size in enumerate(design.slices):
        channels = slice(start, start + size)
        part, passes = y[..., channels], nets.prior.passes_of(k)
        order = lattice(y.shape[1:3], passes)[..., None]
        found = whole = None
        for number in range(passes):
            shown = jnp.zeros_like(part) if found is None else found
            group = prior(k, number, known, shown, z, method="group")
            symbols = decide(part - group.mean, group.row, RATE_WEIGHT * weight[channels])
            symbols = stop_gradient(jnp.where(group.row < SILENT_ROWS, 0, symbols))
            here = part + stop_gradient(group.mean + symbols - part)
            here = fake_quantise(here, LATENT), symbols, group
            mine = order == number
            # What other passes decide is 0 until they have.
            found = jnp.where(mine, here[0], shown)
            whole = here[1:] if whole is None else _select(mine, here[1:], whole)
        symbols, group = whole
        silent = (group.row < SILENT_ROWS) | (symbols == 0).all((0, 1, 2))
        fixed = stop_gradient(found)
        # Beyond the tables there is no slope: escapes cost much the same.
        soft = jnp.minimum(nets.latent.bits({}, fixed, scale_of(group.row), group.mean), MOST_BITS)
        tables = frozen.wide if k < WIDE_SLICES else frozen.narrow
        hard = _code_lengths(tables, symbols.astype(jnp.int32), group.row.astype(jnp.int32))
        soft_bits += jnp.where(silent, 0, soft).sum()
        bits += jnp.where(silent, 0, hard).sum()
        known = prior(k, known, found, method="go_on")
        decoded.append(found)
        start += size
    return jnp.concatenate(decoded, -1), soft_bits, bits


def _select(mask, new, old):
    return jax.tree.map(lambda a, b: jnp.where(mask, a, b), new, old)


def _code_lengths(
    tables: Tables, symbols: Int32[Array, "*shape"], rows: Int32[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """Ideal bits of each symbol, and those of its exponential Golomb code where it escapes."""
    column = symbols - tables.offset[rows]
    last = tables.entries.shape[1] - 1
    outside = (column < 0) | (column >= last)
    frequency = (tables.entries[rows, jnp.where(outside, last, column)] >> 16) + 1.0
    beyond = jnp.maximum(-column, column - last)
    codes = 2 * jnp.floor(jnp.log2(2.0 * jnp.maximum(beyond, 0) + 2)) + 1
    return tables.precision - jnp.log2(frequency) + jnp.where(outside, codes, 0)


def _by_stored_integers(following, arguments, keywords, context):
    """Integer layers that are given floats compute with their stored integers."""
    if context.method_name != "layer":
        return following(*arguments, **keywords)
    x, _, options, _ = arguments
    get = context.module.get_variable
    stored = IntegerWeights(*(get(COLLECTION, name) for name in IntegerWeights._fields))
    return _layer(stored, fake_quantise(x, options.source), options)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _layer(stored: IntegerWeights, x: Array, options: Options) -> Array:
    """Floats on the source grid -> floats on the target grid, as integer_layer.train; fixed."""
    return _layer_forward(stored, x, options)[0]


def _layer_forward(stored, x, options):
    y = run(stored, quantise(x, options.source), options)
    return dequantise(y, options.target), (stored, y, jnp.zeros_like(x))


def _layer_backward(options, saved, gradient):
    stored, y, like = saved
    gradient = inward(gradient, y, options.target.low, options.target.high)
    if options.relu:
        gradient = jnp.where(y > 0, gradient, 0)
    kernel = dequantise_weights(stored, source=options.source, target=options.target)
    _, pull = jax.vjp(lambda x: float_layer(x, kernel, jnp.float32(0), options), like)
    return None, *pull(gradient)


_layer.defvjp(_layer_forward, _layer_backward)
