"""Built again, a cache is the one that was built: no program is compiled twice."""

import jax
import jax.numpy as jnp
import pytest

import jaxcomp as jc
from jaxcomp.kvcache.once import once

K, F = jc.kvcache, jc.formats


def plain(x):
    return F.quantize(x, F.INT8, axes=-1)


@pytest.mark.parametrize(
    "build",
    [
        lambda: K.dense(8),
        lambda: K.quantized(F.INT4, 8, over=4),
        lambda: K.rotated(8, bits=3),
        lambda: K.zipcache(64, group=8),
        lambda: K.evict(K.snapkv(window=4), 8, recent=2, slots=K.ragged(), encode=plain),
        lambda: K.ems(8, recent=2),
    ],
)
def test_the_same_arguments_make_the_same_cache(build):
    assert build() is build()


def test_a_cache_that_is_built_at_every_call_is_compiled_once():
    traces = []

    def rope(keys, positions):
        traces.append(keys.shape)
        return keys

    new = jnp.ones((1, 1, 1, 8))
    state = K.dense(4).init(1, 1, 8)
    for _ in range(3):
        state = K.dense(4).append(state, new, new)
        K.dense(4).attend(state, new, rope=rope)
    assert len(traces) <= 2  # of packed tokens, and of none that wait


def test_types_count_and_what_has_no_hash_is_built_each_time():
    build = once(lambda *x, **_: object())
    assert build(1) is build(1) and build(1) is not build(1.0)
    assert build(1, a=2) is build(1, a=2) and build(1, a=2) is not build(1, a=3)
    assert build([1]) is not build([1]) and build(jnp.ones(2)) is not build(jnp.ones(2))
    held = jnp.ones(2)
    for holds, same in ((lambda: held, False), (plain, True)):
        assert (build(holds) is build(holds)) == same
    found = []
    jax.make_jaxpr(lambda x: found.append((build(x), build(x))))(1.0)
    assert found[0][0] is not found[0][1]  # tracers are not kept
