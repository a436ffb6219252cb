"""The Triton kernel, interpreted, against the reference, and what it says that it supports."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.kernels import quant_matmul, quant_matmul_int8, quant_matmul_triton
from jaxcomp.kernels.packing import TRITS
from jaxcomp.kernels.quant_matmul_lax import Storage, layout
from tests.kernels.quant_cases import QUICK, case

TABLE = tuple(float(x) for x in np.linspace(-1, 1, 16) ** 3)
SHAPE = {"k": 250, "padded": 256, "n": 72, "tile": 128, "group": 128}


def storage_of(options):
    return Storage(*(options.get(name) for name in ("bits", "tile", "axis", "offset", "table")))


def check(call, each, x, tolerance, out="float32"):
    """call in interpret mode equals the reference, for floats or for rounded integers."""
    static = {"storage": storage_of({"offset": 0} | each.options), "out": out}
    weight = (each.codes, each.scales)
    at = layout(*weight, static["storage"])
    if x.dtype == jnp.int8:
        x_scale = jnp.linspace(0.5, 2, len(x))[:, None]
        reference = functools.partial(quant_matmul_int8.reference, x, x_scale, *weight, **static)
        arguments = (x, *weight, x_scale)
    else:
        reference = functools.partial(quant_matmul.reference, x, *weight, **static)
        arguments = (x, *weight)
    kernel = functools.partial(call, *arguments, **static, interpret=True)
    ((got,), (expected,)) = (jax.jit(f, compiler_options=QUICK)() for f in (kernel, reference))
    assert got.dtype == expected.dtype == jnp.dtype(out)
    got, expected = (np.asarray(a, np.float64) for a in (got, expected))
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * np.abs(expected).max())
    return at


@pytest.mark.parametrize(
    "bits, axis, group, dtype",
    [
        (4, 0, 128, "float32"),
        (4, 1, 128, "bfloat16"),
        (2, 1, 128, "float16"),
        (8, 0, 128, "bfloat16"),
        (8, 1, -1, "float32"),
        (4, 0, -1, "float16"),
        (4, 1, 128, "int8"),
        (8, 0, -1, "int8"),
        (8, 1, -1, "int8"),
    ],
)
def test_the_kernel_is_the_reference(bits, axis, group, dtype):
    each = case(bits, axis, **SHAPE | {"group": group})
    x = jnp.asarray(each.x * 40 if dtype == "int8" else each.x).astype(dtype)
    at = check(quant_matmul_triton.call, each, x, 2e-6)
    assert quant_matmul_triton.supports(x.dtype, at, storage_of(each.options))


def test_a_table_and_a_narrow_result():
    each = case(4, 0, table=TABLE, **SHAPE)
    check(quant_matmul_triton.call, each, each.x, 2e-6)
    check(quant_matmul_triton.call, each, each.x, 2**-8, out="bfloat16")


def test_k_is_split_where_rows_are_few_and_only_there():
    assert quant_matmul_triton.splits(64, 32) == 8 and quant_matmul_triton.splits(64, 43) == 1
    assert quant_matmul_triton.splits(1024, 32) == 1


@pytest.mark.parametrize(
    "bits, tile, dtype, yes",
    [
        (4, 128, "bfloat16", True),
        (4, 128, "int8", True),
        (2, 64, "float16", True),
        (2, 64, "int8", False),  # 16 integers are too few for a tensor core
        (3, 128, "bfloat16", False),
        (TRITS, 125, "bfloat16", False),
        (4, 16, "bfloat16", False),
        (4, 128, "float64", False),
    ],
)
def test_supports_reads_shapes_only(bits, tile, dtype, yes):
    from jaxcomp.kernels.packing import tile_bytes

    x = jax.ShapeDtypeStruct((4, 2 * tile), jnp.dtype(dtype))
    codes = jax.ShapeDtypeStruct((2 * tile_bytes(tile, bits), 64), jnp.uint8)
    scales = jax.ShapeDtypeStruct((2, 64), jnp.float32)
    storage = Storage(bits, tile, 0, 0, None)
    got = quant_matmul.supports(x, codes, scales, storage=storage, platform="cuda")
    assert got == yes
    assert not quant_matmul.supports(x, codes, scales, storage=storage, platform="cpu")
