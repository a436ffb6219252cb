"""Refined latents: cheaper by the cost that counts, and exactly what a decoder sees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp import entropy
from jaxcomp.base import JaxcompError
from jaxcomp.codecs import latent_blocks, latent_coding, latent_frozen, latent_walk
from jaxcomp.codecs.latent_codec import UNIT, Design, example, joined, networks
from jaxcomp.codecs.latent_frozen import (
    LEVELS,
    NARROW_SYMBOLS,
    WIDE_SYMBOLS,
    Frozen,
    with_certain,
)
from jaxcomp.codecs.latent_plane import layout
from jaxcomp.codecs.latent_prior import SCALES, level_of
from jaxcomp.codecs.latent_refine import refine
from jaxcomp.codecs.latent_transforms import BLOCK, dct_basis, to_planes
from jaxcomp.codecs.quality import RATE_WEIGHT
from jaxcomp.nets.integer import to_integers
from jaxcomp.nets.resample import space_to_depth
from tests.codecs.designs import QUICK

DESIGN = Design("channel_conditional", (24, 8), side=8, width=16, passes=(2,), split=True)
STEP, HEIGHT, WIDTH = 16 * 20, 50, 60
CHANNELS = sum(DESIGN.slices)


@pytest.fixture(scope="module")
def samples():
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    waves = [100 + 60 * np.sin(x / 9 + c) + 50 * np.cos(y / 7 - c) for c in range(3)]
    return np.stack(waves, -1).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def frozen():
    """A decoder that is no longer the DCT that an analysis is made for; no encoder."""
    rng = np.random.default_rng(0)
    nets = networks(DESIGN)
    (latents, modes), level = example(DESIGN), jnp.zeros(1, jnp.int32)

    def stir(path, leaf):
        # What a network adds to its linear part, and what a prior makes of what it knows.
        name = jax.tree_util.keystr(path)
        scale = {"last_": 0.05, "IntegerConv_4": 0.02}
        noise = sum(scale[k] for k in scale if k in name) * rng.normal(size=leaf.shape)
        return leaf + jnp.asarray(noise, jnp.float32)

    def integers(net, *inputs):
        params = jax.jit(net.init, compiler_options=QUICK)(jax.random.key(1), *inputs)
        return to_integers(net, jax.tree_util.tree_map_with_path(stir, params), *inputs)

    wide, narrow = (
        with_certain(entropy.gaussian(maximum_symbols=n, scales=SCALES).tables({}))
        for n in (WIDE_SYMBOLS, NARROW_SYMBOLS)
    )
    gains = jnp.asarray(rng.integers(900, 1200, (LEVELS, CHANNELS)), jnp.int32)
    prior = integers(nets.prior, latents, level, modes)
    synthesis = integers(nets.synthesis, joined(latents, modes), modes)
    return Frozen(None, None, prior, synthesis, gains, None, wide, narrow)


@pytest.fixture(scope="module")
def start(frozen, samples):
    """y, modes, weight and z as an encoder may begin: a DCT, and side information of any kind."""
    samples = np.pad(samples, ((0, UNIT - HEIGHT), (0, UNIT - WIDTH), (0, 0)), mode="edge")
    planes = to_planes(jnp.asarray(samples[None], jnp.float32)) / (STEP / 16)
    scale = 1024.0 / frozen.inverse_gains[level_of(np.int32(STEP))]
    modes = np.random.default_rng(2).integers(0, 4, (1, 4, 4), np.int32)
    y = latent_blocks.split(space_to_depth(planes, BLOCK) @ dct_basis(3 * BLOCK**2), modes)
    y = y[..., :CHANNELS]
    z = np.random.default_rng(1).integers(-2, 3, (1, 1, 1, DESIGN.side), np.int32)
    return scale * y, modes, scale**2, z


def real_cost(frozen, samples, y, modes, weight, z):
    """The cost of what is written and painted."""
    where = layout(4, 4)
    cells = [where.cut(np.asarray(x)[0]) for x in (y, modes, z)]
    chosen = latent_coding._choose(
        DESIGN,
        frozen.prior_integers,
        *cells[:2],
        weight,
        cells[2],
        np.int32(STEP),
        where.cells,
    )
    latents, symbols, rows = jax.device_get(chosen)
    slices = latent_walk.slices_of_groups(DESIGN)
    active = [
        np.concatenate([s for k, s in zip(slices, symbols, strict=True) if k == n]).any(0)
        for n in range(len(DESIGN.slices))
    ]
    rows = [
        np.where(active[k], row, latent_frozen.CERTAIN) for k, row in zip(slices, rows, strict=True)
    ]
    bits = sum(
        latent_walk.ideal_bits(latent_walk.tables_of(frozen, k), symbol, row)
        for k, symbol, row in zip(slices, symbols, rows, strict=True)
    )
    painted = latent_coding.paint(DESIGN, frozen, where.join(latents), STEP, modes[0])
    error = painted[:HEIGHT, :WIDTH].astype(float) - samples
    return bits + (error**2).sum() / (RATE_WEIGHT * (STEP / 16) ** 2)


def test_cheaper_and_exactly_as_promised(frozen, samples, start):
    heard = []
    y = refine(DESIGN, frozen, *start, samples, STEP, 12, progress=lambda *x: heard.append(x))
    before, after = (real_cost(frozen, samples, x, *start[1:]) for x in (start[0], y))
    assert after < 0.95 * before
    # What refine believes is what a file takes and shows: the same integers.
    assert [i for i, _ in heard] == list(range(13))
    costs = [cost for _, cost in heard]
    np.testing.assert_allclose([costs[0], costs[-1]], [before, after], rtol=2e-5)
    assert (np.diff(costs) <= 0).all()


def test_nothing_is_done_in_no_time(frozen, samples, start):
    assert refine(DESIGN, frozen, *start, samples, STEP, 0) is start[0]


def test_refusals(frozen, samples, start):
    with pytest.raises(JaxcompError, match="0 or more"):
        refine(DESIGN, frozen, *start, samples, STEP, -1)
    with pytest.raises(JaxcompError, match="at most 64 x 64"):
        refine(DESIGN, frozen, *start, np.zeros((65, 64, 3), np.uint8), STEP, 1)
