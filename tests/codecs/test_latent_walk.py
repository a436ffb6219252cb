"""What each group is coded with. That encoders and decoders walk alike: test_latent_coding."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp import coding, entropy
from jaxcomp.codecs import latent_walk
from jaxcomp.codecs.latent_codec import Design
from jaxcomp.codecs.latent_plane import layout
from jaxcomp.codecs.latent_prior import OCTAVES
from jaxcomp.coding.tables import with_certain

RNG = np.random.default_rng(0)


def test_groups_are_slices_times_passes():
    design = Design("channel_conditional", (3, 9, 20, 32), passes=(3, 2))
    assert latent_walk.slices_of_groups(design) == [0, 0, 0, 1, 1, 2, 3]


def test_groups_take_steps_of_few_sizes():
    design = Design("channel_conditional", (3, 9, 20, 32, 320), passes=(3, 2))
    cells = layout(32, 48).cells
    found = [
        latent_walk.steps_of(design, cells, k, number)
        for k, passes in enumerate((3, 2, 1, 1, 1))
        for number in range(passes)
    ]
    most = 16 * 96 * 320 // 16
    assert found == [most // 4] * 7 + [most]
    x = np.arange(40, dtype=np.int32).reshape(4, 10)
    steps = latent_walk.in_steps(x, 5, -1)
    assert steps.shape == (5, 16) and (steps.ravel()[:40] == x.ravel()).all()
    assert (steps.ravel()[40:] == -1).all()
    np.testing.assert_array_equal(latent_walk.in_steps(jnp.asarray(x), None, -1), steps[:3])


def test_tables_of_modes_are_octaves_of_the_step():
    def rows(step):
        return np.asarray(latent_walk.mode_rows(step, np.array([1, 0, 3]))).tolist()

    octaves = [0, 0, 1, 5, 5, 6, 8]
    found = [rows(16 * step) for step in (1, 1.99, 2, 40, 63, 64, 400)]
    assert found == [[n, n, OCTAVES] for n in octaves]  # the third is no block


def test_ideal_bits_are_those_that_are_written():
    scales = np.geomspace(0.1, 4, 8)
    tables = with_certain(entropy.gaussian(maximum_symbols=32, scales=scales).tables({}))
    rows = RNG.integers(0, 9, 20_000).astype(np.int32)
    wide = np.append(3 * scales, 0)[rows]
    symbols = np.rint(RNG.normal(0, 1, rows.shape) * wide).astype(np.int32)
    _, outside = latent_walk.outside(tables, symbols, rows)
    assert 10 < outside.sum() < len(rows) / 2 and not outside[rows == 8].any()
    stream = coding.encode(tables, *jax.device_put((symbols, rows)), lanes=16)
    ideal, real = latent_walk.ideal_bits(tables, symbols, rows), 8 * len(coding.to_bytes(stream))
    assert abs(real - ideal) < 0.005 * ideal + 32 * 16
