"""What a decoder costs: by hand, and by what decoding really runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.codecs.latent_codec import Design
from jaxcomp.codecs.latent_coding import _paint
from jaxcomp.codecs.latent_macs import decoder_macs_per_pixel
from jaxcomp.codecs.latent_plane import layout
from jaxcomp.codecs.latent_walk import walk
from jaxcomp.nets.macs import macs

DESIGN = Design("channel_conditional", (24, 40), side=8, width=16, passes=(2,))


def test_a_small_design_by_hand():
    """One block of 64 x 64: 16 positions, one of side information."""
    begin = 9 * 8 * 32 + 4 * 9 * 8 * 64 + 10 * 16  # expand twice; ten octaves of the step
    go_on = 16 * 9 * (2 * 24) * 16  # sizes and signs of the first slice, 3 x 3
    network = 16 * 16 * 16  # the hidden layer of a group
    group = network + 16 * 16 * (2 * 24)  # a mean and a row for each channel
    spread = 9 * 8 * (24 * 16)  # means of the first slice from side information, in each pass
    beside = go_on + 16 * 9 * 24 * 24  # the second pass: neighbours, mirrored at the border
    last = network + 16 * 16 * (2 * 40)
    prior = begin + 2 * (group + spread) + beside + go_on + last
    # A basis of 16 x 16 blocks; then, per 4 x 4 cell, 48 values and 16 places, and three 3 x 3.
    synthesis = 16 * 64 * 768 + 256 * ((48 + 16) * 40 + 3 * 9 * 40 * 40 + 40 * 48)
    found = decoder_macs_per_pixel(DESIGN, (64, 64))
    assert found == (prior / 4096, synthesis / 4096)
    assert found.total == (prior + synthesis) / 4096
    # One pixel is decoded as a whole block.
    assert decoder_macs_per_pixel(DESIGN, (1, 1)).total == prior + synthesis


@pytest.mark.parametrize(
    "design",
    [
        DESIGN._replace(passes=(3, 2)),
        DESIGN._replace(name="split", split=True, direct=True),
        Design("mean_scale", (64,), side=8, width=16),
        Design("hyperprior", (64,), side=8, width=16, means=False),
    ],
    ids=lambda design: design.name,
)
def test_what_is_counted_is_what_decoding_runs(design):
    shape, groups = (200, 250), []  # padded to 256 x 256, what programs are compiled for
    cells = layout(16, 16).cells

    def read(z, step, modes):
        def visit(k, number, mean, row):
            groups.append(k)
            return jnp.zeros(row.shape, jnp.int32)

        active = np.ones(sum(design.slices), bool)
        return walk(design, {}, z, step, modes, active, cells, visit)

    def paint(latents, step, modes):
        gains = np.ones((145, 64), np.int32)
        return _paint(design, {}, gains, latents, step, modes, cells)

    step = jax.ShapeDtypeStruct((), jnp.int32)
    modes = jax.ShapeDtypeStruct((16, 4, 4), jnp.int32) if design.split else None
    prior = macs(read, jax.ShapeDtypeStruct((16, 1, 1, 8), jnp.int32), step, modes)
    synthesis = macs(paint, jax.ShapeDtypeStruct((16, 4, 4, 64), jnp.int16), step, modes)
    found = decoder_macs_per_pixel(design, shape)
    assert found == (prior / 50000, synthesis / 50000)
    assert len(groups) == {"channel_conditional": 5, "split": 3}.get(design.name, 1)
