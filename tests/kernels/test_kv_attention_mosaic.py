"""The Mosaic kernel, interpreted, against exact attention, and what it says that it supports."""

import jax
import jax.numpy as jnp
import pytest

from jaxcomp.kernels import kv_attention, kv_attention_mosaic
from tests.kernels import kv_cases
from tests.kernels.kv_cases import case
from tests.kernels.test_kv_attention_triton import CHUNKS, check


@pytest.mark.parametrize(
    "keys, values, dtype, tolerance, shape",
    [
        ("UINT4", "TABLE4", "bfloat16", 0.02, {"chunks": 2100}),  # a last block that ends beyond
        ("CHANNELS2", "GROUPS2", "float32", 3e-6, CHUNKS),
    ],
)
def test_the_kernel_is_the_reference(keys, values, dtype, tolerance, shape):
    check(kv_attention_mosaic.call, keys, values, jnp.dtype(dtype), tolerance, **shape)


@pytest.mark.parametrize(
    "keys, values, shape, dtype, yes",
    [
        ("INT4", "INT8", {}, "bfloat16", True),
        ("CHANNELS2", "GROUPS2", CHUNKS, "float32", True),
        ("INT4", "INT4", {"size": 96}, "bfloat16", True),
        ("INT4", "INT4", {}, "float16", False),
        ("INT4", "INT4", {"size": 8}, "bfloat16", False),
        ("CHANNELS2", "GROUPS2", {"chunks": 5, "group": 16}, "float32", False),
    ],
)
def test_supports_reads_shapes_only(keys, values, shape, dtype, yes):
    q, _, sides, storages, _ = case(getattr(kv_cases, keys), getattr(kv_cases, values), **shape)
    q, *sides = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (q, *sides))
    q = jax.ShapeDtypeStruct(q.shape, jnp.dtype(dtype))
    assert kv_attention.supports(q, *sides, storages=storages, platform="tpu") == yes
