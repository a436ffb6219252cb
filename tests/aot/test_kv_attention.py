"""Decoding over packed keys and values compiles for both chips, and is the kernel there."""

import jax
import jax.numpy as jnp
import pytest

import jaxcomp as jc
from tests.aot.machines import KERNEL_CALL, SHARDED, compile_for, compile_for_pod, pod

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
@pytest.mark.parametrize("name", ["uint4", "kivi 2"])
def test_a_step_of_decoding_copies_no_cache(name, platform):
    """A token is appended and asks, in three sequences by vmap, in a loop over tokens."""
    cache = CACHES[name]()

    def decode(new):
        state = cache.init(1, HEADS, SIZE, jnp.bfloat16)

        def step(state, new):
            state = cache.append(state, new[:, :, :HEADS], new[:, :, :HEADS])
            return state, cache.attend(state, new)[0]

        return jax.lax.scan(step, state, new)[1]

    new = jax.ShapeDtypeStruct((3, 100, 1, 1, 4 * HEADS, SIZE), jnp.bfloat16)
    program = compile_for(platform, jax.vmap(decode), new)
    assert KERNEL_CALL[platform] in program.custom_calls
    held = 3 * jc.tree.nbytes(jax.eval_shape(lambda: cache.init(1, HEADS, SIZE, jnp.bfloat16)))
    assert program.compiled.memory_analysis().temp_size_in_bytes < 1.5 * held


def test_a_pod_answers_its_sequences_without_talking():
    cache = CACHES["uint4"]()
    state = jax.eval_shape(lambda: cache.init(256, 1, SIZE, jnp.bfloat16))
    q = jax.ShapeDtypeStruct((256, 1, 4, SIZE), jnp.bfloat16)

    def attend(state, q):
        return cache.attend(state, q)[0]

    run = jax.shard_map(attend, mesh=pod(), in_specs=(SHARDED, SHARDED), out_specs=SHARDED)
    program = compile_for_pod(run, state, q, specs=(SHARDED, SHARDED))
    assert KERNEL_CALL["tpu"] in program.custom_calls and not program.collectives


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_prompts_and_formats_without_a_kernel_walk(platform):
    walks = (K.quantized(F.INT3, TOKENS), {}), (K.quantized(F.INT4, TOKENS), {"tokens": 512})
    for cache, options in walks:
        _, program = _attend(platform, cache, **options)
        assert program.loops
        assert KERNEL_CALL[platform] not in program.custom_calls
