"""The Triton kernel, interpreted, against exact attention, and what it says that it supports."""

import functools

import jax
import jax.numpy as jnp
import pytest

from jaxcomp.kernels import kv_attention, kv_attention_lax, kv_attention_triton
from tests.kernels import kv_cases
from tests.kernels.kv_cases import case, close, output
from tests.kernels.quant_cases import QUICK

CHUNKS = {"chunks": 5, "group": 32, "size": 128}


def check(call, keys, values, dtype, tolerance, **shape):
    """call in interpret mode is the reference and exact attention."""
    q, limits, sides, storages, exact = case(
        getattr(kv_cases, keys), getattr(kv_cases, values), **shape
    )
    static = {"storages": storages, "scale": q.shape[-1] ** -0.5}
    kernel = functools.partial(call, **static, interpret=True)
    got = jax.jit(kernel, compiler_options=QUICK)(q.astype(dtype), limits, sides)
    close(output(got), exact, tolerance)
    plain = functools.partial(kv_attention_lax.attend, storages=storages, scale=static["scale"])
    expected = jax.jit(plain, compiler_options=QUICK)(q, limits, sides)
    assert [x.shape for x in got] == [x.shape for x in expected]
    close(got[0][0], expected[0][0], tolerance)


@pytest.mark.parametrize(
    "keys, values, dtype, tolerance, shape",
    [
        ("INT4", "TABLE4", "float32", 3e-6, {"chunks": 150}),
        ("CHANNELS2", "GROUPS2", "float32", 3e-6, CHUNKS),
        ("TABLE2", "UINT4", "bfloat16", 0.02, {"chunks": 70, "size": 128}),
    ],
)
def test_the_kernel_is_the_reference(keys, values, dtype, tolerance, shape):
    check(kv_attention_triton.call, keys, values, jnp.dtype(dtype), tolerance, **shape)


def test_tokens_are_cut_into_parts_where_heads_are_few_and_only_there():
    assert kv_attention_triton.parts(8, 32768, 64) == 64
    assert kv_attention_triton.parts(8, 100, 64) == 2
    assert kv_attention_triton.parts(1024, 32768, 64) == 1


@pytest.mark.parametrize(
    "keys, values, shape, dtype, yes",
    [
        ("INT4", "INT4", {}, "bfloat16", True),
        ("INT8", "UINT4", {}, "float16", True),
        ("CHANNELS2", "GROUPS2", CHUNKS, "bfloat16", True),
        ("CHANNELS2", "GROUPS2", CHUNKS | {"rows": 64}, "bfloat16", False),
        ("CHANNELS2", "CHANNELS2", CHUNKS, "bfloat16", False),
        ("INT4", "INT4", {"size": 96}, "bfloat16", False),
        ("INT4", "INT4", {"size": 16}, "bfloat16", False),
    ],
)
def test_supports_reads_shapes_only(keys, values, shape, dtype, yes):
    q, _, sides, storages, _ = case(getattr(kv_cases, keys), getattr(kv_cases, values), **shape)
    q, *sides = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (q, *sides))
    q = jax.ShapeDtypeStruct(q.shape, jnp.dtype(dtype))
    assert kv_attention.supports(q, *sides, storages=storages, platform="cuda") == yes
    assert not kv_attention.supports(q, *sides, storages=storages, platform="cpu")
