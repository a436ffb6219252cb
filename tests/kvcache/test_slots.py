"""Slots that heads share: packed in one pool, given to those who need them, none lost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.kvcache.slots import ragged
from tests.checks import check_cache
from tests.kvcache.inputs import qkv

K = jc.kvcache


def test_the_law():
    state = check_cache(
        K.evict(K.h2o(), 12, sinks=2, recent=4, slots=ragged()), tolerance=None, alone=False
    )
    assert state.keys.shape == (2, 1, 24, 16)


def test_the_pool_is_the_even_cache_while_no_prompt_has_come():
    pack = lambda x: jc.formats.quantize(x, jc.formats.INT8._replace(group=-1), axes=-1)  # noqa: E731
    q, k, v = qkv(24)
    outs = []
    for slots in (None, ragged()):
        cache = K.evict(K.normalised_attention(), 12, recent=4, encode=pack, slots=slots)

        def step(state, new, cache=cache):
            out, state = K.attention(cache, state, *(x[:, None] for x in new))
            return state, out

        run = jax.jit(
            lambda *new, cache=cache, step=step: jax.lax.scan(step, cache.init(2, 2, 32), new)
        )
        outs.append(run(*(x.swapaxes(0, 1) for x in (q, k, v)))[1])
    np.testing.assert_allclose(*outs, atol=1e-5)


def test_a_prompt_shares_slots_out_by_value_between_least_and_most():
    slots, budget, heads = ragged(least=0.25, most=2.0), 8, 3
    value = jnp.stack([jnp.linspace(9, 8, 30), jnp.linspace(5, 0, 30), jnp.full(30, -7.0)])[None]
    at = slots.init(1, heads, budget)
    settled = slots.settle(at, value, jnp.array([True]), budget, 0)
    assert jnp.diff(settled[0], prepend=0).tolist() == [16, 6, 2]  # most, the rest, least
    assert (slots.settle(at, value, jnp.array([False]), budget, 0) == at).all()
    held = slots.settle(at, value, jnp.array([True]), budget, 5)
    assert jnp.diff(held[0], prepend=0).tolist() == [14, 5, 5]
    few = slots.settle(at, value[..., :2], jnp.array([True]), budget, 0)
    assert np.ptp(jnp.diff(few[0], prepend=0)) <= 1  # nobody asks for the rest


def test_what_is_written_is_read_back_and_nobody_elses():
    slots = ragged()
    at = jnp.array([[1, 4, 9]])
    store = jnp.full((1, 1, 9), -1.0)
    new = jnp.arange(18.0).reshape(1, 3, 6)
    target = jnp.broadcast_to(jnp.arange(6)[::-1], (1, 3, 6))  # the last to slot 0
    store = slots.write(at, store, new, target)
    assert store[0, 0].tolist() == [5, 11, 10, 9, 17, 16, 15, 14, 13]
    assert slots.read(at, store, 1, 3, -2)[0].tolist() == [[-2, -2, -2], [10, 9, -2], [16, 15, 14]]
    assert (slots.renew(at, store, slots.read(at, store, 0, 6)) == store).all()


def test_heads_that_look_far_get_what_others_leave_and_the_error_falls():
    """One head looks at its last tokens, one all over: the same bytes serve both better."""
    q, k, v = qkv(96, heads=2, shared=1, size=16)
    q, k = (x.at[:, :, 0].multiply(0.1) for x in (q, k))
    q, k = q.at[:, :, 0, 0].set(10.0), k.at[:, :, 0, 0].set(0.3 * jnp.arange(96))
    exact = jax.nn.dot_product_attention(q, k, v, is_causal=True)[:, -4:]
    errors, held = [], []
    for slots in (None, ragged(most=2.0)):
        cache = K.evict(K.snapkv(window=8, pool=1), 24, sinks=0, recent=4, slots=slots)
        state = cache.append(cache.init(2, 2, 16), k[:, :92], v[:, :92], queries=q[:, :92])
        state = cache.append(state, k[:, 92:], v[:, 92:], queries=q[:, 92:])
        out, _ = cache.attend(state, q[:, 92:])
        errors.append(float(jnp.square(out - exact).mean()))
        held.append(K.nbytes(state))
    assert errors[1] < 0.6 * errors[0] and held[1] == held[0] + 2 * 2 * 4


def test_shares_that_are_none_are_refused():
    with pytest.raises(jc.UnsupportedInput, match="expected 0 <= least"):
        ragged(least=2.0)
