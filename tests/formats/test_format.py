"""Grids: nearest levels and their ties, ranges, padding, tiles."""

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.base import UnsupportedInput
from jaxcomp.formats import format as grids
from jaxcomp.formats.format import Format
from jaxcomp.kernels.packing import TRITS

F = jc.formats
rng = np.random.default_rng(0)


@pytest.mark.parametrize(
    "format",
    [
        F.INT8,
        F.INT3,
        F.UINT4,
        F.TERNARY,
        F.FP4,
        F.NF4,
        F.FP8_E4M3,
        Format(8, table=tuple(map(float, range(0, 512, 2)))),
    ],
    ids=str,
)
def test_nearest_is_nearest_and_clips(format):
    grid = grids.levels(format)
    grid = np.where(np.isfinite(grid), grid, np.inf)
    u = rng.normal(size=4000).astype(np.float32) * np.ptp(grid[np.isfinite(grid)])
    codes = np.asarray(grids.nearest(jnp.asarray(u), format))
    far = np.abs(u[:, None] - grid)
    np.testing.assert_allclose(far[range(len(u)), codes], far.min(1), rtol=1e-6)
    np.testing.assert_array_equal(grids.value(jnp.asarray(codes), format), grid[codes])


@pytest.mark.parametrize("format", [F.INT4, F.NF4, F.TERNARY], ids=str)
def test_a_tie_goes_to_the_even_code(format):
    grid = np.sort(grids.levels(format).astype(np.float32))
    middles = (grid[1:] + grid[:-1]) / 2
    exact = (middles - grid[:-1] == grid[1:] - middles) & (middles > grid[:-1])
    codes = np.asarray(grids.nearest(jnp.asarray(middles[exact]), format))
    assert exact.sum() >= 2 and (codes % 2 == 0).all()


def test_scales_span_the_range():
    w = jnp.asarray([[[-2.0, 7.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0], [1.0, 3.0, 2.0, 4.0]]])
    scale, zero = grids.fit(w, F.INT4)
    np.testing.assert_array_equal(scale, [[1.0, 1.0, np.float32(4 / 7)]])
    assert zero is None
    scale, zero = grids.fit(w, F.UINT4)
    np.testing.assert_allclose(scale, [[9 / 15, 1.0, 4 / 15]], rtol=1e-6)
    np.testing.assert_array_equal(zero, [[3, 0, 0]])  # the grid holds 0
    # Scales that lie on a grid of their own are not stretched by a group of zeros.
    assert grids.fit(w, F.NVFP4)[0][0, 1] == 0


def test_rounding_to_a_scale_of_zero_is_zero():
    codes, near = grids.round_to(jnp.ones((1, 4)), jnp.zeros(1), None, F.INT4)
    assert np.isfinite(codes).all() and (np.asarray(near) == 0).all()


def test_powers_of_two_are_exact():
    byte = np.arange(256)
    found = np.asarray(grids.power_of_two(jnp.asarray(byte, jnp.uint8)))
    np.testing.assert_array_equal(found[1:255], np.exp2(byte[1:255].astype(np.float64) - 127))
    assert np.isnan(found[255])


def test_axes_are_filled_up_to_groups_and_bytes():
    assert grids.padded_size(101, F.INT4) == 102 and grids.padded_size(101, F.INT3) == 104
    assert grids.padded_size(101, F.TERNARY) == 101
    assert grids.padded_size(101, F.INT4_G32._replace(pad=True)) == 128
    with pytest.raises(UnsupportedInput, match="group=32 must divide the packed axis of 101"):
        grids.padded_size(101, F.INT4_G32)
    with pytest.raises(UnsupportedInput, match="multiple of 8 for 3 bits"):
        grids.padded_size(60, F.INT3._replace(group=12))


@pytest.mark.parametrize(
    "bits,size,tile",
    [(4, 256, 128), (4, 172, 4), (3, 192, 64), (TRITS, 100, 100), (TRITS, 256, 128)],
)
def test_tiles_divide_groups(bits, size, tile):
    table = (0.0, 1.0, 2.0) if bits == TRITS else None
    assert grids.with_tile(Format(bits, table=table), size).tile == tile


def test_names():
    names = {
        F.INT4_G128: "int4 g128",
        F.UINT3: "uint3 per channel",
        F.NF4: "nf4 g64",
        F.MXFP4: "mxfp4 g32 scale e8m0",
    }
    for format, name in names.items():
        assert str(format) == name


@pytest.mark.parametrize(
    "fields",
    [
        {"bits": 9},
        {"bits": 4.0},
        {"table": (0.0, 1.0)},
        {"bits": TRITS},
        {"table": "float32"},
        {"bits": 8, "table": "float8_e9m9"},
        {"group": 0},
        {"group": 32.0},
        {"scale": "int8"},
        {"scale": "e9m9"},
        {"zero": "e8m0"},
        {"tile": 3},
        {"offset": 0},
        {"name": "a\n"},
    ],
    ids=str,
)
def test_fields_that_make_no_format_are_named(fields):
    with pytest.raises(UnsupportedInput, match="expected .*" + [*fields][-1]):
        grids.in_groups(jnp.ones((2, 64)), F.INT4._replace(**fields))


def test_what_is_no_format_is_named(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as outside of tests
    w = jnp.ones((4, 8))
    for what in ("int4", None, jnp.int8):
        with pytest.raises(UnsupportedInput, match=r"expected a jc.formats.Format, got"):
            F.quantize(w, what)


@pytest.mark.parametrize("what", ["int4", None, jnp.int8, "e8m0", 4, F.INT4._replace(bits=9)])
def test_what_stores_no_real_numbers_is_named(what):  # jax has an int4, to which they would be cut
    with pytest.raises(UnsupportedInput, match="floating dtype, got|expected bits from 1"):
        F.low_rank(jnp.ones((4, 2)), jnp.ones((2, 8)), factors=what)
    grids.check_storage(jnp.bfloat16)
    grids.check_storage(F.INT4)


def test_every_constant_is_a_format():
    formats = [value for name in dir(F) if isinstance(value := getattr(F, name), Format)]
    assert len(formats) > 20
    for format in formats:
        grids.check(format)


def test_scales_of_half_precision_stay_finite():
    dense = F.quantize(jnp.full((64, 2), 1e9), F.INT4._replace(scale="float16")).dense()
    np.testing.assert_array_equal(dense, np.float32(65504 * 7))
