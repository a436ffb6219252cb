"""The rANS kernels really compile for both chips, and are what runs there."""

import functools

import jax
import jax.numpy as jnp
import pytest

from jaxcomp.kernels import rans_decode, rans_encode
from tests.aot.machines import KERNEL_CALL, SHARDED, WHOLE, compile_for, compile_for_pod, pod

# (precision, groups, steps, lanes): 4 M symbols in 16,384 lanes and in 4,096, in wide and in narrow
# groups; 256 M symbols in 262,144 lanes; 300 k symbols in 64; and what fills neither a register
# nor a block.
SHAPES = {
    "4M-128x128-p12": (12, 128, 256, 128),
    "4M-128x128-p16": (16, 128, 256, 128),
    "4M-32x128": (16, 32, 1024, 128),
    "4M-512x32": (12, 512, 256, 32),
    "256M-2048x128": (12, 2048, 1024, 128),
    "300k-1x64": (16, 1, 4688, 64),
    "tiny": (8, 3, 17, 2),
}
# (tables, symbols, with a directory, with an index)
TABLES = {
    "one": (1, 256, True, False),
    "one-searched": (1, 256, False, False),
    "many": (300, 17, True, True),
    "many-searched": (64, 64, False, True),
}
MANY = (64, 64, True, True)

both_platforms = pytest.mark.parametrize("platform", ["cuda", "tpu"])
all_shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())


def _array(*shape, dtype=jnp.uint32):
    return jax.ShapeDtypeStruct(shape, dtype)


def _encoder(shape):
    precision, groups, steps, lanes = shape
    encode = functools.partial(rans_encode.run, capacity=steps * lanes, precision=precision)
    return encode, (_array(groups, lanes), _array(groups, steps, lanes))


def _decoder(shape, tables):
    precision, groups, steps, lanes = shape
    count, symbols, with_directory, with_index = tables
    arguments = (
        _array(groups, lanes),
        _array(groups, steps * lanes, dtype=jnp.uint16),
        _array(groups, dtype=jnp.int32),
        (_array(count, symbols), _array(count, 1 << (precision - 4)) if with_directory else None),
        _array(groups, steps, lanes, dtype=jnp.int32) if with_index else None,
        _array(groups, dtype=jnp.int32),
    )
    return functools.partial(rans_decode.run, precision=precision, steps=steps), arguments


def _is_the_kernel(program, platform):
    assert KERNEL_CALL[platform] in program.custom_calls
    assert not program.loops


@both_platforms
@all_shapes
def test_encoder_is_the_kernel(shape, platform):
    encode, arguments = _encoder(shape)
    _is_the_kernel(compile_for(platform, encode, *arguments), platform)


@both_platforms
@all_shapes
def test_decoder_is_the_kernel(shape, platform):
    decode, arguments = _decoder(shape, MANY)
    _is_the_kernel(compile_for(platform, decode, *arguments), platform)


@both_platforms
@pytest.mark.parametrize("tables", TABLES.values(), ids=TABLES.keys())
def test_decoder_takes_every_kind_of_table(tables, platform):
    decode, arguments = _decoder(SHAPES["4M-128x128-p16"], tables)
    _is_the_kernel(compile_for(platform, decode, *arguments), platform)


@both_platforms
def test_a_batch_is_the_same_one_kernel(platform):
    def stack(tree):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((8, *x.shape), x.dtype), tree)

    # Eight sets of 64 tables: more than one row of 128.
    for function, arguments in (_encoder((12, 16, 256, 128)), _decoder((12, 16, 256, 128), MANY)):
        program = compile_for(platform, jax.vmap(function), *stack(arguments))
        _is_the_kernel(program, platform)
        calls = program.lowered.as_text().count(f"custom_call @{KERNEL_CALL[platform]}")
        assert calls == 1


@pytest.mark.parametrize("check_vma", [True, False])
def test_a_pod_codes_without_talking(check_vma):
    shape = (16, 2048, 256, 128)  # 8 groups on each of 256 chips
    on_pod = functools.partial(jax.shard_map, mesh=pod(), out_specs=SHARDED, check_vma=check_vma)
    decoder_specs = (SHARDED, SHARDED, SHARDED, WHOLE, SHARDED, SHARDED)
    for (function, arguments), specs in (
        (_encoder(shape), (SHARDED, SHARDED)),
        (_decoder(shape, MANY), decoder_specs),
    ):
        program = compile_for_pod(on_pod(function, in_specs=specs), *arguments, specs=specs)
        _is_the_kernel(program, "tpu")
        assert not program.collectives


def test_collectives_are_seen_where_there_are_some():
    total = jax.shard_map(
        lambda x: jax.lax.psum(x, "groups"), mesh=pod(), in_specs=SHARDED, out_specs=WHOLE
    )
    program = compile_for_pod(total, _array(2048, 128, dtype=jnp.float32), specs=(SHARDED,))
    assert program.collectives


@both_platforms
def test_the_reference_is_seen_where_there_is_no_kernel(platform):
    encode, arguments = _encoder((12, 2, 40, 96 if platform == "cuda" else 256))
    program = compile_for(platform, encode, *arguments)
    assert program.loops
    assert KERNEL_CALL[platform] not in program.custom_calls
