"""Decoding over packed keys and values compiles for both chips, and is the kernel there."""

import jax
import jax.numpy as jnp
import pytest

import jaxcomp as jc
from tests.aot.machines import KERNEL_CALL, compile_for

TOKENS, HEADS, SIZE = 32768, 8, 128
K, F = jc.kvcache, jc.formats
CACHES = {
    "int4": lambda: K.quantized(F.INT4, TOKENS),
    "uint4": lambda: K.quantized(F.UINT4, TOKENS),
    "int4 g32": lambda: K.quantized(F.INT4_G32, TOKENS),
    "uint8": lambda: K.quantized(F.UINT8, TOKENS),
    "kivi 4": lambda: K.kivi(TOKENS, bits=4),
    "kivi 2": lambda: K.kivi(TOKENS),
    "rotated 4": lambda: K.rotated(TOKENS),
    "rotated 2": lambda: K.rotated(TOKENS, bits=2),
}


def _attend(platform, cache, *, heads=HEADS, tokens=1, dtype=jnp.bfloat16, batch=1):
    state = jax.eval_shape(lambda: cache.init(batch, HEADS, SIZE, dtype))
    q = jax.ShapeDtypeStruct((batch, tokens, heads, SIZE), dtype)
    return state, compile_for(platform, lambda state, q: cache.attend(state, q)[0], state, q)


def _is_the_kernel(platform, cache, **options):
    state, program = _attend(platform, cache, **options)
    assert KERNEL_CALL[platform] in program.custom_calls
    held = jc.tree.nbytes((state.keys, state.values))
    assert program.compiled.memory_analysis().temp_size_in_bytes < held / 4


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("heads", [HEADS, 4 * HEADS])
@pytest.mark.parametrize("name", CACHES)
def test_decoding_is_the_kernel_and_nothing_is_made_dense(name, heads, platform):
    _is_the_kernel(platform, CACHES[name](), heads=heads)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_float32_and_a_few_tokens_at_once(platform):
    _is_the_kernel(platform, CACHES["int4"](), dtype=jnp.float32)
    _is_the_kernel(platform, CACHES["uint4"](), heads=2 * HEADS, tokens=4, batch=3)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_prompts_and_formats_without_a_kernel_walk(platform):
    walks = (K.quantized(F.INT3, TOKENS), {}), (K.quantized(F.INT4, TOKENS), {"tokens": 512})
    for cache, options in walks:
        _, program = _attend(platform, cache, **options)
        assert program.loops
        assert KERNEL_CALL[platform] not in program.custom_calls
