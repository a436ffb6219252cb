"""Products with packed weights really compile for both chips, and are what runs there."""

import functools

import jax
import jax.numpy as jnp
import pytest

from jaxcomp.kernels import quant_matmul, quant_matmul_int8
from tests.aot.machines import KERNEL_CALL, SHARDED, WHOLE, compile_for, compile_for_pod, pod

K = N = 4096
ROWS = (1, 16, 4096)
TABLE = tuple(x / 8 for x in range(-8, 8))

both_platforms = pytest.mark.parametrize("platform", ["cuda", "tpu"])


def _weight(bits, axis, group, k=K, n=N):
    """(codes, scales, the static keywords) of a [k, n] weight."""
    groups, length = 1 if group == -1 else k // group, k * bits // 8
    codes = jax.ShapeDtypeStruct(
        (length, n) if axis == 0 else (n, length), jnp.int8 if bits == 8 else jnp.uint8
    )
    scales = jax.ShapeDtypeStruct((groups, n) if axis == 0 else (n, groups), jnp.bfloat16)
    offset = 0 if bits == 8 else 1 << (bits - 1)
    return (
        codes,
        scales,
        {"bits": bits, "tile": 128, "group": group, "axis": axis, "offset": offset},
    )


def _compile(platform, run, m, weight, dtype=jnp.bfloat16, **more):
    codes, scales, options = weight
    x = jax.ShapeDtypeStruct((m, K), dtype)
    return compile_for(platform, functools.partial(run, **options | more), x, codes, scales)


def _is_the_kernel(program, platform):
    assert KERNEL_CALL[platform] in program.custom_calls
    assert not program.loops


@both_platforms
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("m", ROWS)
@pytest.mark.parametrize("bits, group", [(4, 128), (8, -1)])
@pytest.mark.parametrize("run", [quant_matmul.run, quant_matmul_int8.run], ids=["float", "int8"])
def test_the_product_is_the_kernel(run, bits, group, m, axis, platform):
    _is_the_kernel(_compile(platform, run, m, _weight(bits, axis, group)), platform)


@both_platforms
@pytest.mark.parametrize("axis", [0, 1])
def test_other_widths_groups_and_tables(axis, platform):
    for weight in (_weight(2, axis, 128), _weight(8, axis, 128), _weight(4, axis, -1)):
        for dtype in (jnp.float32, jnp.bfloat16):
            _is_the_kernel(_compile(platform, quant_matmul.run, 16, weight, dtype), platform)
        _is_the_kernel(_compile(platform, quant_matmul_int8.run, 16, weight), platform)
    weight, table = _weight(4, axis, 128), {"table": TABLE, "offset": 0}
    _is_the_kernel(_compile(platform, quant_matmul.run, 16, weight, **table), platform)


@both_platforms
def test_no_dense_weight_is_ever_held(platform):
    program = _compile(platform, quant_matmul.run, 1, _weight(4, 0, 128))
    assert program.compiled.memory_analysis().temp_size_in_bytes < K * N // 2


@both_platforms
def test_a_batch_is_the_same_one_kernel(platform):
    codes, scales, options = _weight(4, 0, 128)
    over_x = jax.vmap(functools.partial(quant_matmul.run, **options), (0, None, None))
    program = compile_for(
        platform, over_x, jax.ShapeDtypeStruct((8, 2, K), jnp.bfloat16), codes, scales
    )
    _is_the_kernel(program, platform)
    assert program.lowered.as_text().count(f"custom_call @{KERNEL_CALL[platform]}") == 1


def test_a_pod_multiplies_its_rows_without_talking():
    codes, scales, options = _weight(4, 0, 128)
    specs = (SHARDED, WHOLE, WHOLE)
    run = functools.partial(quant_matmul.run, **options)
    sharded = jax.shard_map(run, mesh=pod(), in_specs=specs, out_specs=SHARDED)
    x = jax.ShapeDtypeStruct((4096, K), jnp.bfloat16)
    program = compile_for_pod(sharded, x, codes, scales, specs=specs)
    _is_the_kernel(program, "tpu")
    assert not program.collectives


@both_platforms
def test_the_reference_is_seen_where_there_is_no_kernel(platform):
    codes, scales, options = _weight(4, 0, 128)
    three_bits = jax.ShapeDtypeStruct((K * 3 // 8, N), jnp.uint8), scales, options | {"bits": 3}
    program = _compile(platform, quant_matmul.run, 16, three_bits)
    assert program.loops
    assert KERNEL_CALL[platform] not in program.custom_calls
