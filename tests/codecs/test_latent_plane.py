"""Cell by cell a convolution sees what it sees on a grid, on the same integers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.codecs.latent_plane import CAPACITIES, GRID, layout
from jaxcomp.nets.integer import FEATURES, IntegerConv, to_integers
from tests.nets.cases import random_variables

RNG = np.random.default_rng(0)
SHAPE = 12, 20  # blocks: 3 x 5 cells, of 16


class Net(nn.Module):
    """A convolution on either plane; mirrored beyond the border or not."""

    mirrored: bool = False

    @nn.compact
    def __call__(self, x, plane=GRID):
        layer = IntegerConv(6, (3, 3))
        return plane.convolve_mirrored(layer, x) if self.mirrored else plane.convolve(layer, x)


class Floats(nn.Module):
    """What encoders use: strides, and kernels larger than a cell's neighbours would allow."""

    size: int
    stride: int

    @nn.compact
    def __call__(self, x, plane=GRID):
        layer = nn.Conv(3, (self.size, self.size), strides=self.stride, use_bias=self.size == 5)
        return plane.convolve(layer, x)


# A cell of one row has nothing to mirror.
@pytest.mark.parametrize(
    ("mirrored", "finer"), [(False, 0.25), (False, 0.5), (False, 4), (True, 0.5), (True, 1)]
)
def test_integers_are_those_of_the_grid(mirrored, finer):
    where = layout(*SHAPE)
    x = RNG.integers(-128, 128, (*(int(finer * n) for n in SHAPE), 5)).astype(np.int8)
    net = Net(mirrored)
    example = jnp.zeros((1, 8, 8, 5))
    integers = to_integers(net, random_variables(net, example), example)
    whole = jax.jit(net.apply)(integers, x[None])[0]
    cells = jax.jit(net.apply)(integers, where.cut(x), where.cells)
    np.testing.assert_array_equal(where.join(cells), whole)
    assert len(cells) == CAPACITIES[0] and len(np.unique(whole)) > 50
    assert FEATURES.low <= whole.min()


@pytest.mark.parametrize(
    ("size", "stride", "finer"), [(3, 1, 1), (5, 2, 1), (5, 2, 0.5), (4, 4, 1)]
)
def test_floats_are_those_of_the_grid(size, stride, finer):
    where = layout(*SHAPE)
    x = RNG.normal(0, 1, (*(int(finer * n) for n in SHAPE), 5)).astype(np.float32)
    net = Floats(size, stride)
    variables = random_variables(net, x[None])
    whole = jax.jit(net.apply)(variables, x[None])[0]
    cells = jax.jit(net.apply)(variables, where.cut(x), where.cells)
    np.testing.assert_allclose(where.join(cells), whole, rtol=1e-5, atol=1e-5)


def test_layouts_cut_and_join():
    where = layout(*SHAPE)
    for finer in (0.25, 1, 16):
        x = RNG.integers(0, 9, (*(int(finer * n) for n in SHAPE), 2))
        cells = where.cut(x)
        np.testing.assert_array_equal(where.join(cells), x)
        assert not cells[15:].any()
    first = where.cut(np.arange(12 * 20).reshape(SHAPE))[1]
    np.testing.assert_array_equal(first[0], [4, 5, 6, 7])


@pytest.mark.parametrize("passes", [1, 2, 3])
def test_places_are_in_order_of_rows_and_columns(passes):
    where = layout(*SHAPE)
    index = where.cut(np.arange(1, 12 * 20 + 1).reshape(SHAPE)).ravel()
    seen = []
    for places in where.cells.places[passes]:
        exists = places < len(index)
        assert exists.sum() in (12 * 20 // n for n in (1, 2, 4)) and not exists[::-1][:1].any()
        assert (np.diff(exists.astype(int)) <= 0).all()
        found = index[places[exists]]
        assert (np.diff(found) > 0).all()
        seen.append(found)
    assert sorted(np.concatenate(seen)) == list(range(1, 12 * 20 + 1))


def test_capacities_are_few():
    shapes = [(4 * h, 4 * w) for h in range(1, 17) for w in range(1, 17)]
    assert {len(layout(*shape).cells.near) for shape in shapes} == set(CAPACITIES[:3])
    assert len(layout(72, 72).cells.near) == CAPACITIES[-1]
