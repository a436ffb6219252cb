"""Fields from coarse to fine: the decoder sees what the encoder saw, and smooth ones are zeros."""

import numpy as np
import pytest

from jaxcomp.coding.interpolation import decode, encode


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 1, 2), (1, 3, 5), (4, 9, 17), (2, 7, 30), (5, 1, 1)]
)
@pytest.mark.parametrize("fineness", [1.0, 1.25])
def test_the_decoder_sees_what_the_encoder_saw(shape, fineness):
    x = np.random.default_rng(0).standard_normal(shape)
    k, y = encode(x, 0.3, 0.02, fineness)
    assert k.shape == (x.size,) and np.abs(x - y).max() <= 0.01 + 1e-12
    np.testing.assert_array_equal(decode(k, shape, 0.3, 0.02, fineness), y)


def test_cubics_along_an_axis_are_predicted_and_lines_at_its_edges():
    t = np.linspace(0, 1, 65)
    cubic = (4 * t**3 - 3 * t**2 + t)[None, None]
    k, _ = encode(cubic, 0.0, 2e-3, 1.0)
    assert np.count_nonzero(k) < 20
    # At the last stride nothing is left but what rounding moved.
    assert np.abs(k[-32:]).max() <= 1


def test_smooth_fields_take_fewer_symbols_than_differences_of_levels():
    at = np.stack(np.meshgrid(*[np.linspace(0, 3, n) for n in (8, 32, 64)], indexing="ij"))
    x = np.sin(at[0] + 2 * at[1]) * np.cos(at[2])
    k, _ = encode(x, 0.0, 0.01, 1.25)
    levels = np.rint(x / 0.01)
    for axis in range(3):
        levels = np.diff(levels, axis=axis)
    assert np.count_nonzero(k) < 0.4 * np.count_nonzero(levels)


def test_what_is_not_finite_is_predicted_and_spoils_nothing():
    x = np.ones((1, 8, 8))
    x[0, 3, 4], x[0, 0, 0] = np.nan, np.inf
    k, y = encode(x, 1.0, 0.1, 1.0)
    assert not k.any() and (y == 1).all()


def test_whole_steps_give_whole_values():
    x = 1000 * np.random.default_rng(0).standard_normal((3, 9, 20)).cumsum(-1)
    k, y = encode(x, 7.0, 16.0, 1.25, whole=True)
    assert (y == np.rint(y)).all() and np.abs(x - y).max() <= 8
    np.testing.assert_array_equal(decode(k, x.shape, 7.0, 16.0, 1.25, whole=True), y)
