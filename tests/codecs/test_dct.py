"""The dct codec: its law, its claim against JPEG, and damaged payloads."""

import importlib
import io
import struct
from importlib import resources

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxcomp as jc
from jaxcomp.base import CorruptStream, JaxcompError, Payload, UnsupportedInput
from jaxcomp.codecs import dct_coder, dct_filter, dct_geometry, dct_symbols, dct_tile, dct_transform
from jaxcomp.codecs.quality import QUALITIES, STEPS
from jaxcomp.measures import bd_rate_percent

dct = importlib.import_module("jaxcomp.codecs.dct")


@pytest.fixture(scope="module")
def params():
    return dct.init()


def photo(height=200, width=240, top=40, left=120):
    """A piece of the bundled photo, with a pattern none of the tables was trained on."""
    path = resources.files("jaxcomp.cli") / "demo_photo" / "chelsea.png"
    with path.open("rb") as file:
        image = np.asarray(Image.open(file).convert("RGB"))
    image = image[top : top + height, left : left + width].copy()
    image[:20, :20, 0] ^= 0x55
    return image


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


SHAPES = [(1, 1), (1, 1, 3), (40, 70), (33, 17, 3), (7, 300, 1), (200, 240, 3)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("quality", [5, 60, 100])
def test_decode_is_apply(params, shape, quality):
    image = photo(*shape[:2], top=0, left=0)
    image = image[..., 0].reshape(shape) if len(shape) == 2 or shape[2] == 1 else image
    payload = dct.encode(params, image, quality=quality)
    decoded = dct.decode(params, payload)
    expected, bits = dct.apply(params, image, quality=quality)
    assert decoded.dtype == np.uint8 and decoded.shape == shape
    np.testing.assert_array_equal(decoded, expected)
    # Heads, the section's own fields, and the rounding of both parts up to bytes or words.
    assert 8 * len(payload.sections["data"]) <= 1.01 * bits + 8 * (40 + 3 * dct_tile.LANES)


def test_tiles_cover_every_size():
    for height, width in ((1, 1), (512, 768), (768, 512), (3000, 4000), (17, 30000)):
        rectangles = dct_geometry.tiles(height, width)
        assert sum(h * w for *_, h, w in rectangles) == height * width
        for y, x, h, w in rectangles:
            assert y % 32 == x % 32 == 0
            assert -(-h // 32) * -(-w // 32) * 4 <= dct_geometry.CAPACITIES[-1]


def test_photo_of_several_tiles(params):
    image = np.tile(photo(), (4, 4, 1))[:530, :900]
    assert len(dct_geometry.tiles(530, 900)) > 1
    payload = dct.encode(params, image, quality=40)
    decoded = dct.decode(params, payload)
    np.testing.assert_array_equal(decoded, dct.apply(params, image, quality=40)[0])
    assert psnr(image, decoded) > 28


@pytest.mark.slow
def test_without_jit_the_same(params):
    # Every plane is a step of Python here: a soft image almost without colour has few.
    y, x = np.mgrid[0:16, 0:30]
    image = np.stack([100 + 4 * x - 2 * y, 100 + 4 * x - 2 * y, 110 + 4 * x], -1).astype(np.uint8)
    payload = dct.encode(params, image, quality=8)
    expected = dct.decode(params, payload)
    assert len(np.unique(expected)) > 50
    with jax.disable_jit():
        np.testing.assert_array_equal(dct.decode(params, payload), expected)


def test_quality_is_monotone_and_near_jpeg(params):
    image = photo()
    sizes, ours, theirs = [], [], []
    for quality in (5, 10, 25, 40, 60, 80, 90, 95, 100):
        payload = dct.encode(params, image, quality=quality)
        sizes.append(len(payload.sections["data"]))
        ours.append(psnr(image, dct.decode(params, payload)))
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        theirs.append(psnr(image, np.asarray(Image.open(file))))
    assert sizes == sorted(sizes) and ours == sorted(ours)
    assert np.abs(np.subtract(ours, theirs))[1:7].max() < 2.5


def test_files_keep_a_rate():
    image = photo()
    for target in (0.3, 1.0):
        size = 8 * len(jc.codecs.save(jc.codecs.dct(), image, bpp=target))
        assert 0.85 * target < size / image[..., 0].size <= target


def test_at_least_35_percent_below_jpeg(params):
    image = photo(256, 256)
    curves = {"jpeg": [], "dct": []}
    for quality in (10, 25, 50, 75, 90):
        payload = dct.encode(params, image, quality=quality)
        size = len(payload.sections["data"])
        curves["dct"].append((size, psnr(image, dct.decode(params, payload))))
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality, optimize=True)
        # The tables in its header are not held against JPEG on so small a photo.
        bytes_of_image = len(file.getvalue()) - 330
        curves["jpeg"].append((bytes_of_image, psnr(image, np.asarray(Image.open(file)))))
    jpeg, ours = (np.array(c).T for c in curves.values())
    assert bd_rate_percent(*jpeg, *ours) < -35


def test_few_programs_for_many_sizes(params):
    programs = (dct_tile._choose, dct_tile._read, dct_tile._synthesise)
    before = [program._cache_size() for program in programs]
    for i in range(10):
        # From 60x250 to 177x169, and two of more than 256 cells.
        size = (60 + 13 * i, 250 - 9 * i) if i < 8 else (290, 300 + i)
        dct.decode(params, dct.encode(params, photo(*size, top=0), quality=20))
    # Two to encode, which share a third that writes symbols; four to decode.
    after = [program._cache_size() for program in programs]
    assert (np.subtract(after, before) <= 2).all()


def test_refused_images(params):
    for bad in (np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4), np.uint8)):
        with pytest.raises(UnsupportedInput, match="expected"):
            dct.encode(params, bad)
    for options in ({"quality": 0}, {"quality": 50, "bpp": 1.0}, {"bpp": -1}):
        with pytest.raises(JaxcompError):
            dct.encode(params, np.zeros((4, 4), np.uint8), **options)


def test_damaged_payloads(params):
    image = photo(64, 64)
    payload = dct.encode(params, image, quality=40)
    data = payload.sections["data"]
    rng = np.random.default_rng(0)
    refused = 0
    for i in range(150):
        damaged = bytearray(data)
        if i % 3 == 0:
            damaged = damaged[: rng.integers(len(data))]
        elif i % 3 == 1:
            damaged[rng.integers(len(data))] ^= 1 << rng.integers(8)
        else:
            where = rng.integers(len(data) - 8)
            damaged[where : where + 8] = rng.bytes(8)
        try:
            decoded = dct.decode(params, Payload(payload.header, {"data": bytes(damaged)}))
            assert decoded.shape == image.shape and decoded.dtype == np.uint8
        except CorruptStream:
            refused += 1
    assert refused > 60
    for shape in ([1 << 40, 1], [64, 64, 4], [64], "64", [0, 64], [64.0, 64.0], [1 << 20, 1 << 20]):
        with pytest.raises(CorruptStream):
            dct.decode(params, Payload({"shape": shape}, payload.sections))
    with pytest.raises(CorruptStream):
        dct.decode(params, Payload(payload.header, {}))


def test_symbols_hold_every_magnitude():
    values = np.arange(-dct_symbols.LARGEST, dct_symbols.LARGEST + 1, dtype=np.int32)
    found = dct_symbols.symbols_of(np.abs(values))
    np.testing.assert_array_equal(found, dct_coder._symbol(np.abs(values)))
    np.testing.assert_array_equal(
        dct_symbols.unpack(dct_symbols.pack(values, found), found), values
    )


FORWARD = jax.jit(lambda samples: dct_transform.forward(dct_transform.to_planes(samples)))
INVERSE = jax.jit(dct_transform.inverse)


@pytest.mark.parametrize("mode", range(dct_transform.MODES))
def test_inverse_undoes_forward(mode):
    rng = np.random.default_rng(mode)
    blocks = jnp.asarray(rng.integers(0, 256, (3, 32, 32, 3)), jnp.float32)
    values = np.rint(np.asarray(FORWARD(blocks))[mode] * 8).astype(np.int32)
    back = INVERSE(values, np.full((3, 4), mode))
    samples = np.asarray(dct_transform.to_samples(back)).transpose(0, 2, 3, 1)
    assert np.abs(samples - np.asarray(blocks)).max() <= 1


def by_wide_integers(values, rows, columns):
    """The inverse of [..., u, v] in int64, with the rounding and the limits that are specified."""
    limit, half = dct_transform.LIMIT, 1 << (dct_transform.BASIS_BITS - 1)
    rows, columns = (np.rint(m * 2 * half).astype(np.int64) for m in (rows, columns))
    x = np.clip(values.astype(np.int64), -limit, limit)
    for basis in (rows, columns):
        x = np.clip((x.swapaxes(-1, -2) @ basis + half) // (2 * half), -limit, limit)
    return x


@pytest.mark.parametrize("mode", range(dct_transform.MODES))
def test_no_overflow_for_the_worst_coefficients(mode):
    """All coefficients at their limit, with the signs of one pixel's basis: sums are largest."""
    kind = max(mode - 1, 0)
    cell = dct_transform.CELL_MATRICES
    for pixel in (0, 5, 15):
        if mode == 0:
            matrix = dct_transform.SUPERBLOCK_MATRIX
            worst = np.sign(np.outer(matrix[:, pixel], matrix[:, pixel])).astype(np.int64) << 20
            expected = np.tile(by_wide_integers(worst, matrix, matrix), (1, 3, 1, 1))
            values = worst.reshape(2, 16, 2, 16).swapaxes(1, 2).reshape(1, 4, 1, 16, 16)
        else:
            rows, columns = cell[kind & 1], cell[kind >> 1]
            worst = np.sign(np.outer(rows[:, pixel], columns[:, pixel])).astype(np.int64) << 20
            expected = np.tile(by_wide_integers(worst, rows, columns), (1, 3, 2, 2))
            values = np.tile(worst, (1, 4, 1, 1, 1))
        values = np.tile(values, (1, 1, 3, 1, 1)).astype(np.int32)
        out = INVERSE(values, np.full((1, 4), mode))
        np.testing.assert_array_equal(out, expected)
        assert np.abs(expected).max() == dct_transform.LIMIT


def test_filter_keeps_what_is_flat(params):
    size = dct_filter.canvas_size(4)
    where, stride = dct_filter.canvas_map(1, 1, size)
    flat = jnp.full((3, size), 777, "int32")
    weights = dct_filter.join(params.weights[3])
    place = jnp.zeros(size, "int32")
    restore = jax.jit(dct_filter.restore)
    out = restore(flat, place, jnp.int32(stride), jnp.int32(640), jnp.asarray(weights))
    np.testing.assert_array_equal(out, flat)
    assert len(where) == size
    assert 12 * 2 * 2100 * int(np.abs(weights).max()) < 2**31


def test_section_begins_with_the_step(params):
    payload = dct.encode(params, photo(32, 32), quality=50)
    step = int(round(np.exp(np.interp(50, QUALITIES, np.log(STEPS))) * 16))
    assert struct.unpack_from("<H", payload.sections["data"]) == (step,)
