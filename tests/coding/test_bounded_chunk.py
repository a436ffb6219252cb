"""Chunks of floats with a bound: it holds for every value, and bytes are near the entropy."""

import pathlib
import zlib

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcomp.base import CorruptStream, UnsupportedInput
from jaxcomp.coding.bounded_chunk import (
    BETWEEN,
    BOUNDED,
    FLOATS,
    INTERPOLATED,
    LOGARITHMIC,
    decode_any,
    encode_bounded,
)
from jaxcomp.coding.tensor_chunk import decode_chunk, encode_chunk

GOLDEN = pathlib.Path(__file__).parents[1] / "golden/bounded_chunk_v1.bin"


LEVELS = pathlib.Path(__file__).parents[1] / "golden/bounded_chunk_levels_v1.bin"


def a_field():
    at = np.stack(np.meshgrid(np.linspace(0, 3, 24), np.linspace(0, 2, 40), indexing="ij"))
    return (np.sin(at[0] + at[1] ** 2) + 1.5).astype(np.float32)


def there_and_back(x, bound, relative=False):
    coded = encode_bounded(x, bound, relative=relative)
    return coded, decode_any(coded.data, x.dtype, x.size).reshape(x.shape)


def check(x, bound, relative):
    """The bound, in exact fractions where float64 cannot tell."""
    coded, y = there_and_back(x, bound, relative)
    wide, back = x.astype(np.float64).reshape(-1), y.astype(np.float64).reshape(-1)
    exact = ~np.isfinite(wide) | (relative & (wide == 0))
    bits = [v.reshape(-1).view(f"u{x.itemsize}")[exact] for v in (x, y)]
    np.testing.assert_array_equal(*bits)
    with np.errstate(all="ignore"):
        error = np.abs(wide - back)[~exact]
        error = np.where(error > 0, error / np.abs(wide[~exact]) if relative else error, 0)
    assert (error <= bound * (1 + 1e-15)).all()
    assert error.max(initial=0) <= coded.error * (1 + 1e-12) <= bound * (1 + 2e-12)
    return coded


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(FLOATS)),
    st.one_of(st.floats(1e-18, 0.9), st.sampled_from([1e-320, 1e-30, 0.5, 1e30, 1.7e308])),
    st.booleans(),
    st.sampled_from([(70,), (3, 40), (2, 5, 12), (1, 1, 90)]),
    st.integers(0, 2**32 - 1),
)
def test_the_bound_holds_for_every_value_of_every_dtype(dtype, bound, relative, shape, seed):
    draw = np.random.default_rng(seed)
    dtype = np.dtype(dtype)
    bits = draw.integers(0, 256, (*shape, dtype.itemsize), np.uint8).view(dtype)[..., 0]
    tame = (draw.standard_normal(shape) * 2.0 ** draw.integers(-20, 10)).astype(dtype)
    kind = draw.integers(4)
    x = [bits, tame, np.where(draw.random(shape) < 0.2, bits, tame), tame.cumsum(-1)][kind]
    with np.errstate(all="ignore"):
        check(x.astype(dtype), bound, relative and bound < 1)


def test_what_rounding_would_push_over_the_bound_is_kept_exactly():
    # 1 + 2**-23 k in float32: multiples of the step are between its values.
    x = (1 + np.arange(4096) * 2.0**-23).astype(np.float32)
    for bound in (1.1 * 2.0**-24, 1.9 * 2.0**-24, 3.3 * 2.0**-24, 2.0**-20):
        check(x, bound, False)


def test_odd_integers_at_a_bound_of_one_need_no_exceptions():
    x = np.random.default_rng(0).integers(-50, 50, 4096).astype(np.float32)
    coded = check(x, 1.0, False)
    assert coded.error == 1 and len(coded.data) * 8 / x.size < np.log2(50) + 0.5


def test_bits_are_near_the_entropy_of_the_quantized_values():
    w = (0.05 * np.random.default_rng(0).standard_normal((256, 256))).astype(np.float32)
    coded = check(w, 1e-3, False)
    ideal = np.log2(0.05 * np.sqrt(2 * np.pi * np.e) / 2e-3)
    rounded = (np.rint(w / 2e-3) * 2e-3).astype(np.float32)
    assert len(coded.data) * 8 / w.size < ideal + 0.15
    assert len(coded.data) < 0.5 * len(encode_chunk(rounded))


def test_relative_levels_are_fewer_than_rounded_mantissas():
    w = np.random.default_rng(0).standard_normal(1 << 16).astype(np.float32)
    coded = check(w, 2e-3, True)
    bits = w.view(np.uint32)  # to 8 bits below the leading one: an error of 2**-9
    rounded = ((bits + (1 << 14)) >> 15 << 15).view(np.float32)
    assert (np.abs(w - rounded) <= 2e-3 * np.abs(w)).all()
    assert len(coded.data) < 0.96 * len(encode_chunk(rounded))


def test_smooth_fields_are_interpolated_rough_ones_coded_by_differences_and_noise_by_neither():
    at = np.stack(np.meshgrid(*[np.linspace(0, 3, n) for n in (4, 48, 80)], indexing="ij"))
    field = np.sin(at[0] + 2 * at[1]) * np.cos(at[2]) + 2
    draw = np.random.default_rng(0)
    noise, walk = draw.standard_normal(field.shape), draw.standard_normal(field.shape).cumsum(-1)
    smooth, rough, none = (
        check(x, b, False) for x, b in ((field, 1e-4), (walk, 0.1), (noise, 0.01))
    )
    assert [one.data[1] for one in (smooth, rough, none)] == [INTERPOLATED, 0, 0]
    assert [one.data[2] & 7 for one in (smooth, rough, none)] == [0, 1, 0]  # the axes
    assert len(smooth.data) < field.nbytes / 25
    # Differences take 5,400 bytes of the first.
    near, far = (check(x, 1e-4, True) for x in (field, np.exp(walk)))  # by levels of relative ones
    assert [one.data[1] for one in (near, far)] == [BETWEEN, LOGARITHMIC]
    assert len(near.data) < field.nbytes / 29 and far.data[2] & 7 == 1
    signed = field * np.where(draw.random(field.shape) < 0.01, 0, -1)
    assert check(signed, 1e-4, True).data[1] == BETWEEN
    holes = np.where(draw.random(field.shape) < 0.01, np.nan, field)
    assert check(holes, 1e-4, False).data[1] == INTERPOLATED


def test_tokens_that_repeat_are_packed():
    x = np.tile(np.random.default_rng(0).standard_normal((1, 256)), (64, 1)).astype(np.float32)
    assert len(check(x + np.float32(0.1), 1e-3, False).data) < x.nbytes / 60


def test_a_chunk_without_loss_is_written_where_it_is_smaller():
    zeros, fine = np.zeros(1000, np.float32), np.linspace(1, 2, 1000, dtype=ml_dtypes.bfloat16)
    for x, bound in ((zeros, 0.1), (fine[:0], 0.1), (fine, 0.0)):
        coded = encode_bounded(x, bound)
        assert coded.data == encode_chunk(x) and coded.error == 0


def test_golden_chunks_are_read_for_ever():
    draw = np.random.default_rng(7)
    x = draw.standard_normal((4, 100)).cumsum(-1)
    x[1, 50], x[2, 3], x[3, 9] = np.nan, 0, np.inf
    golden, kinds = GOLDEN.read_bytes(), []
    for dtype in ("float32", "float64"):
        for bound, relative in ((0.01, False), (0.01, True), (1e-11, True)):
            size = int.from_bytes(golden[:4], "little")
            then, golden = golden[4 : 4 + size], golden[4 + size :]
            now = encode_bounded(x.astype(dtype), bound, relative=relative).data
            # Tables of the same values may be others, and so may what they are deflated to.
            assert then[0] == now[0] and abs(len(then) - len(now)) < 16
            values = [decode_any(data, dtype, x.size).tobytes() for data in (then, now)]
            assert values[0] == values[1]
            kinds.append(then[0])
    assert not golden and kinds[:2] == [BOUNDED] * 2


def test_a_golden_chunk_of_interpolated_levels():
    golden = LEVELS.read_bytes()
    values = decode_any(golden, np.float32, 24 * 40)
    assert golden[1] == BETWEEN and zlib.crc32(values) == 0x466F1B01
    # log2 of another machine may round another way: of what is written only the size is compared.
    assert abs(len(check(a_field(), 1e-3, True).data) - len(golden)) < 16


def test_damaged_chunks_are_named_or_read():
    draw = np.random.default_rng(3)
    rough = draw.standard_normal((8, 64)).astype(np.float32)
    smooth, named = np.sin(np.arange(8192.0) / 50).reshape(64, 128), 0
    for x, relative in ((rough, False), (rough, True), (smooth, False), (smooth + 2, True)):
        data = encode_bounded(x, 0.01, relative=relative).data
        assert data[0] == BOUNDED
        for _ in range(150):
            bad = bytearray(data)
            bad[draw.integers(len(bad) if draw.random() < 0.5 else 64)] ^= 1 << draw.integers(8)
            bad = bad[: draw.integers(len(bad))] if draw.random() < 0.3 else bad
            try:
                assert decode_any(bytes(bad), x.dtype, x.size).shape == (x.size,)
            except CorruptStream:
                named += 1
    assert named > 80


def test_bad_input_is_named():
    with pytest.raises(UnsupportedInput, match="expected one of"):
        encode_bounded(np.arange(9), 0.1)
    for bound in (-1.0, np.nan, np.inf):
        with pytest.raises(UnsupportedInput, match="bound of 0 or more"):
            encode_bounded(np.ones(9), bound)
    with pytest.raises(UnsupportedInput, match="below 1"):
        encode_bounded(np.ones(9), 1.0, relative=True)
    data = encode_bounded(np.random.default_rng(0).standard_normal(999), 0.1).data
    with pytest.raises(CorruptStream, match="chunks in chunks"):
        decode_chunk(data, np.float64, 999)
    with pytest.raises(CorruptStream, match="floats with a bound"):
        decode_any(data, np.int64, 999)
