"""The Hadamard kernels really compile for both chips, and are what runs there."""

import jax
import jax.numpy as jnp
import pytest

from jaxcomp.kernels import hadamard
from tests.aot.machines import KERNEL_CALL, SHARDED, compile_for, compile_for_pod, pod

both_platforms = pytest.mark.parametrize("platform", ["cuda", "tpu"])


def _array(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


# The narrowest row, the narrowest of two products, an oblong, a usual one and the widest; few rows
# and many.
@both_platforms
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((3, 128), jnp.bfloat16),
        ((1000, 256), jnp.float32),
        ((33, 512), jnp.bfloat16),
        ((4, 1024, 4096), jnp.bfloat16),
        ((77, 8192), jnp.float32),
        ((1, 16384), jnp.float32),
    ],
    ids=str,
)
def test_run_is_the_kernel(shape, dtype, platform):
    program = compile_for(platform, hadamard.run, _array(*shape, dtype=dtype))
    assert KERNEL_CALL[platform] in program.custom_calls
    assert "stablehlo.dot_general" not in program.lowered.as_text()  # the reference is products


@both_platforms
def test_gradients_and_batches_are_the_kernel_too(platform):
    def loss(x, signs):
        return jax.vmap(lambda x: hadamard.run(x, signs=signs)[..., 0] ** 2)(x).sum()

    program = compile_for(platform, jax.grad(loss), _array(8, 64, 1024), _array(1024))
    text = program.lowered.as_text()
    assert KERNEL_CALL[platform] in program.custom_calls and "stablehlo.dot_general" not in text


def test_a_pod_rotates_without_talking():
    on_pod = jax.shard_map(hadamard.run, mesh=pod(), in_specs=SHARDED, out_specs=SHARDED)
    x = _array(2048, 4096, dtype=jnp.bfloat16)
    program = compile_for_pod(on_pod, x, specs=(SHARDED,))
    assert KERNEL_CALL["tpu"] in program.custom_calls and not program.collectives


@both_platforms
@pytest.mark.parametrize("x", [_array(64, 688), _array(64, 256, dtype=jnp.float16)], ids=str)
def test_what_no_kernel_takes_is_the_reference(x, platform):
    program = compile_for(platform, hadamard.run, x)
    assert not program.custom_calls & set(KERNEL_CALL.values())
    assert "stablehlo.dot_general" in program.lowered.as_text()
