"""Caches by their kernel come to what they come to by blocks; what has none walks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

import jaxcomp as jc
from jaxcomp.kernels import kv_attention, kv_attention_triton
from jaxcomp.kvcache import packed_attention
from tests.kernels.quant_cases import QUICK
from tests.kvcache.inputs import qkv

K, F = jc.kvcache, jc.formats
LENGTHS = jnp.array([73, 0, 34])


def on_a_gpu(monkeypatch, run=kv_attention.run):
    """Programs choose as they would on a GPU; returns the number of rows that each kernel got."""
    asked = []

    def count(q, *arrays, **static):
        asked.append(q.shape[2])
        return run(q, *arrays, **static)

    monkeypatch.setattr(packed_attention.kv_attention, "run", count)
    monkeypatch.setattr(
        packed_attention.lax, "platform_dependent", lambda state, default, cuda, tpu: cuda(state)
    )
    return asked


def new(build, *arguments, **options):
    """Built anew: a cache that was traced before does not see what is patched."""
    return build.__wrapped__(*arguments, **options)


CACHES = {
    "int4 uint8 g32": (lambda: new(K.quantized, F.INT4, 80, values=F.UINT8._replace(group=32)), 64),
    "int8 g32": (lambda: new(K.quantized, F.INT8._replace(group=32), 80), 64),
    "kivi 2": (lambda: new(K.kivi, 96, window=4), 128),
    "rotated 4 2": (lambda: new(K.rotated, 80, values=2), 64),
}


def interpreted(q, limits, keys, values, **static):
    return kv_attention_triton.call(q, limits, (keys, values), **static, interpret=True)


@pytest.mark.parametrize("name", CACHES)
def test_the_kernel_is_the_walk(name, monkeypatch):
    """Of two queries that three heads share, the last of three sequences."""
    make, size = CACHES[name]
    q, k, v = qkv(73, batch=3, heads=1, shared=3, size=size, dtype=jnp.float32)

    def filled(cache, k, v):
        state = cache.append(cache.init(3, 1, size), k, v, lengths=LENGTHS)
        return state._replace(start=jnp.maximum(LENGTHS - 2, 0))

    def compiled(function):
        return jax.jit(function, compiler_options=QUICK)

    state = compiled(functools.partial(filled, make()))(k, v)
    expected, _ = compiled(make().attend)(state, q[:, 71:])
    asked = on_a_gpu(monkeypatch, *[interpreted] * (name == "kivi 2"))
    found, _ = compiled(make().attend)(state, q[:, 71:])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert asked == [3 * 2]


def test_sequences_shard():
    cache = K.quantized(F.UINT4, 1100)  # three blocks, in a loop
    state = jax.eval_shape(lambda: cache.init(4, 1, 64))
    q = jax.ShapeDtypeStruct((4, 1, 2, 64), jnp.float32)
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(AxisType.Auto,))
    each = PartitionSpec("batch")
    run = jax.shard_map(cache.attend, mesh=mesh, in_specs=each, out_specs=each)
    assert "stablehlo.while" in jax.jit(run).lower(state, q).as_text()


def test_what_no_kernel_reads_walks(monkeypatch):
    asked = on_a_gpu(monkeypatch)

    def attend(format, tokens=1, **options):
        cache = new(K.quantized, format, 80)
        state = jax.eval_shape(lambda: cache.init(3, 1, 64))
        jax.eval_shape(
            lambda *x: cache.attend(*x, **options), state, qkv(tokens, batch=3, size=64)[0]
        )

    for format in (F.INT3, F.FP8_E4M3, F.INT4._replace(scale="e8m0")):
        attend(format)
    attend(F.INT4, rope=lambda k, at: k)
    attend(F.INT4, tokens=40)  # a prompt
    assert not asked
    attend(F.INT4)
    assert asked
