import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.kernels.packing import TRITS, least_tile, pack, planes, tile_bytes, unpack


@pytest.mark.parametrize("bits", [TRITS, *range(1, 9)])
@pytest.mark.parametrize("axis", [0, -1])
def test_unpack_inverts_pack_and_a_tile_takes_its_bytes(bits, axis):
    levels = 3 if bits == TRITS else 1 << bits
    tile = 16 * least_tile(bits)
    shape = (3 * tile, 5) if axis == 0 else (5, 3 * tile)
    codes = np.random.default_rng(bits).integers(0, levels, shape).astype(np.uint8)
    packed = jax.jit(lambda x: pack(x, bits, axis=axis, tile=tile))(codes)
    assert packed.dtype == jnp.uint8 and packed.shape[axis] == 3 * tile_bytes(tile, bits)
    back = jax.jit(lambda x: unpack(x, bits, axis=axis, tile=tile))(packed)
    np.testing.assert_array_equal(back, codes)


def test_a_byte_of_four_bits_holds_codes_half_a_tile_apart():
    packed = pack(jnp.arange(8, dtype=jnp.uint8), 4, axis=0, tile=8)
    np.testing.assert_array_equal(packed, [0x40, 0x51, 0x62, 0x73])


def test_three_bits_are_a_plane_of_two_and_a_plane_of_one():
    packed = pack(jnp.arange(8, dtype=jnp.uint8), 3, axis=0, tile=8)
    # low two bits of 0 .. 7, codes 0 2 4 6 and 1 3 5 7; then their third bits
    np.testing.assert_array_equal(packed, [0b10001000, 0b11011101, 0b11110000])


def test_widths_and_sizes():
    assert planes(7) == (4, 2, 1) and planes(8) == (8,)
    assert [tile_bytes(128, bits) for bits in (1, 2, 3, 4, 8, TRITS)] == [16, 32, 48, 64, 128, 26]
