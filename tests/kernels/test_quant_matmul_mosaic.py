"""The Mosaic kernel, interpreted, against the reference, and what it says that it supports."""

import jax
import jax.numpy as jnp
import pytest

from jaxcomp.kernels import quant_matmul, quant_matmul_mosaic
from jaxcomp.kernels.packing import tile_bytes
from jaxcomp.kernels.quant_matmul_lax import Storage
from tests.kernels.quant_cases import case
from tests.kernels.test_quant_matmul_triton import TABLE, check, storage_of

SHAPE = {"k": 250, "padded": 256, "n": 256, "tile": 128, "group": 128}


@pytest.mark.parametrize(
    "bits, axis, group, dtype",
    [
        (4, 0, 128, "float32"),
        (4, 1, 128, "bfloat16"),
        (8, 1, -1, "bfloat16"),
        (4, 0, -1, "int8"),
        (8, 0, 128, "int8"),
    ],
)
def test_the_kernel_is_the_reference(bits, axis, group, dtype):
    each = case(bits, axis, **SHAPE | {"group": group})
    x = jnp.asarray(each.x * 40 if dtype == "int8" else each.x).astype(dtype)
    at = check(quant_matmul_mosaic.call, each, x, 2e-6)
    assert quant_matmul_mosaic.supports(x.dtype, at, storage_of(each.options))


def test_a_last_block_beyond_k_adds_nothing():
    shape = SHAPE | {"n": 128, "k": 1100, "padded": 1152, "group": 384}  # nine tiles of two bits
    each = case(2, 1, **shape)
    check(quant_matmul_mosaic.call, each, each.x, 2e-6)


def test_a_table_and_a_narrow_result():
    each = case(4, 0, table=TABLE, **SHAPE)
    check(quant_matmul_mosaic.call, each, each.x, 2**-8, out="bfloat16")


@pytest.mark.parametrize(
    "bits, tile, n, dtype, yes",
    [
        (4, 128, 256, "bfloat16", True),
        (4, 128, 256, "int8", True),
        (4, 128, 250, "bfloat16", False),
        (4, 32, 256, "bfloat16", False),
        (3, 128, 256, "bfloat16", False),
        (4, 128, 256, "float16", False),
    ],
)
def test_supports_reads_shapes_only(bits, tile, n, dtype, yes):
    x = jax.ShapeDtypeStruct((4, 2 * tile), jnp.dtype(dtype))
    codes = jax.ShapeDtypeStruct((2 * tile_bytes(tile, bits), n), jnp.uint8)
    scales = jax.ShapeDtypeStruct((2, n), jnp.float32)
    storage = Storage(bits, tile, 0, 0, None)
    got = quant_matmul.supports(x, codes, scales, storage=storage, platform="tpu")
    assert got == yes
