"""The fused steps of optimizers really compile for both chips, and are what runs there."""

import functools

import jax
import jax.numpy as jnp
import pytest

from jaxcomp.kernels import adam8bit, dynamic_map
from tests.aot.machines import KERNEL_CALL, SHARDED, WHOLE, compile_for, compile_for_pod, pod

both_platforms = pytest.mark.parametrize("platform", ["cuda", "tpu"])
EIGHT = (dynamic_map.SIGNED, dynamic_map.UNSIGNED)
FOUR = (dynamic_map.SIGNED4, dynamic_map.LINEAR4)


def _case(rule, maps, block, *shape, dtype=jnp.float32):
    """The step as a function of arrays, and their shapes."""
    *lead, n = shape
    moments = tuple(
        adam8bit.Moment(
            jax.ShapeDtypeStruct((*lead, n * map.bits // 8), jnp.uint8),
            jax.ShapeDtypeStruct((*lead, n // block), jnp.float32),
        )
        for map in maps
    )
    numbers = jax.ShapeDtypeStruct((adam8bit.NUMBERS[rule],), jnp.float32)
    run = functools.partial(adam8bit.run, rule, maps=maps, block=block)
    return run, (jax.ShapeDtypeStruct(shape, dtype), moments, numbers)


# A usual weight, few rows, a row of more blocks than a cell takes, three axes, one axis, 4 bits.
@both_platforms
@pytest.mark.parametrize(
    ("rule", "maps", "block", "shape", "dtype"),
    [
        (adam8bit.adam, EIGHT, 256, (4096, 1024), "bfloat16"),
        (adam8bit.adam, EIGHT, 256, (3, 50 * 1024), "float32"),
        (adam8bit.adam, FOUR, 256, (4, 40, 512), "float32"),
        (adam8bit.lion, EIGHT[:1], 128, (33, 384), "float32"),
        (adam8bit.momentum, EIGHT[:1], 256, (8192,), "bfloat16"),
    ],
)
def test_run_is_the_kernel(rule, maps, block, shape, dtype, platform):
    run, shapes = _case(rule, maps, block, *shape, dtype=jnp.dtype(dtype))
    program = compile_for(platform, run, *shapes)
    assert KERNEL_CALL[platform] in program.custom_calls


def test_a_pod_steps_without_talking():
    run, shapes = _case(adam8bit.adam, EIGHT, 256, 8192, 1024)
    specs = (SHARDED, SHARDED, WHOLE)
    on_pod = jax.shard_map(run, mesh=pod(), in_specs=specs, out_specs=SHARDED)
    program = compile_for_pod(on_pod, *shapes, specs=specs)
    assert KERNEL_CALL["tpu"] in program.custom_calls and not program.collectives


@both_platforms
def test_what_no_kernel_takes_is_the_reference(platform):
    run, shapes = _case(adam8bit.adam, EIGHT, 48, 64, 96)
    program = compile_for(platform, run, *shapes)
    assert KERNEL_CALL[platform] not in program.custom_calls
