"""jc.coding as users call it, compiled for both chips and for a pod: the kernels are what runs."""

import functools

import jax
import jax.numpy as jnp
import pytest

from jaxcomp import coding
from tests.aot.machines import KERNEL_CALL, SHARDED, WHOLE, compile_for, compile_for_pod, pod

# symbols, lanes, precision, escape: the rows of benchmarks/coding.py, and escapes.
MESSAGES = {
    "4M-p12": (1 << 22, 16384, 12, False),
    "4M-p16-escape": (1 << 22, 16384, 16, True),
    "300k-p16": (300_000, 64, 16, False),
}

both_platforms = pytest.mark.parametrize("platform", ["cuda", "tpu"])


def _array(*shape, dtype=jnp.int32):
    return jax.ShapeDtypeStruct(shape, dtype)


def _rows(count, symbols, precision):
    """The arrays of `count` tables."""
    return (
        _array(count, symbols, dtype=jnp.uint32),
        _array(count, 1 << (precision - 4), dtype=jnp.uint32),
        _array(count),
    )


def _coder(precision, escape, lanes):
    """(encode, decode) whose tables arrive as arrays."""

    def encode(rows, symbols, index):
        tables = coding.Tables(*rows, precision=precision, escape=escape)
        return coding.encode(tables, symbols, index, lanes=lanes)

    def decode(rows, stream, index):
        tables = coding.Tables(*rows, precision=precision, escape=escape)
        return coding.decode(tables, stream, index)

    return encode, decode


def _is_the_kernel(program, platform):
    assert KERNEL_CALL[platform] in program.custom_calls
    assert not program.loops


@both_platforms
@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES.keys())
def test_encode_and_decode_run_the_kernels(message, platform):
    count, lanes, precision, escape = message
    rows, symbols = _rows(64, 64, precision), _array(count)
    encode, decode = _coder(precision, escape, lanes)
    _is_the_kernel(compile_for(platform, encode, rows, symbols, symbols), platform)
    stream = jax.eval_shape(encode, rows, symbols, symbols)
    _is_the_kernel(compile_for(platform, decode, rows, stream, symbols), platform)


def test_a_table_per_symbol_is_decoded_by_the_gpu_kernel():
    # What a network that emits one pmf per symbol needs: rows without a directory, built inside.
    def encode_and_decode(pmf, symbols):
        tables, row = coding.build_tables(pmf), jnp.arange(symbols.size, dtype=jnp.int32)
        return coding.decode(tables, coding.encode(tables, symbols, row, lanes=256), row)

    pmf = _array(1 << 16, 64, dtype=jnp.float32)
    program = compile_for("cuda", encode_and_decode, pmf, _array(1 << 16))
    calls = program.lowered.as_text().count(f"custom_call @{KERNEL_CALL['cuda']}")
    assert calls == 2


def test_a_pod_codes_its_shards_without_talking():
    """4 M symbols on each of 256 chips, every chip a stream of its own."""
    rows, symbols = _rows(64, 64, 16), _array(256 << 22)
    encode, decode = _coder(16, False, 16384)

    def encode_shard(rows, symbols, index):
        return jax.tree.map(lambda x: x[None], encode(rows, symbols, index))

    def decode_shard(rows, stream, index):
        return decode(rows, jax.tree.map(lambda x: x[0], stream), index)

    on_pod = functools.partial(jax.shard_map, mesh=pod(), out_specs=SHARDED)
    specs = (WHOLE, SHARDED, SHARDED)
    encode_all, decode_all = (
        on_pod(encode_shard, in_specs=specs),
        on_pod(decode_shard, in_specs=specs),
    )
    streams = jax.eval_shape(encode_all, rows, symbols, symbols)
    for function, message in ((encode_all, symbols), (decode_all, streams)):
        program = compile_for_pod(function, rows, message, symbols, specs=specs)
        _is_the_kernel(program, "tpu")
        assert not program.collectives
