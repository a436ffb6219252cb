"""Attention over packed keys and values: every format, gradients, vmap, and what is refused."""

import functools

import chex
import jax
import jax.numpy as jnp
import pytest

from jaxcomp.base import UnsupportedInput
from jaxcomp.kernels import kv_attention
from tests.kernels import kv_cases
from tests.kernels.kv_cases import case, close, output
from tests.kernels.quant_cases import QUICK


def _run(each):
    q, limits, sides, storages, _ = each
    run = functools.partial(kv_attention.run, storages=storages, scale=q.shape[-1] ** -0.5)
    return jax.jit(run, compiler_options=QUICK)(q, limits, *sides)


@pytest.mark.parametrize(
    "keys, values, shape",
    [
        ("INT4", "TABLE4", {"chunks": 600}),  # two blocks, the second reaching back
        ("CHANNELS2", "GROUPS2", {"chunks": 3, "group": 16}),
        ("UINT4", "INT8", {"size": 48}),
    ],
)
def test_formats_are_exact_attention_over_what_they_stand_for(keys, values, shape):
    each = case(getattr(kv_cases, keys), getattr(kv_cases, values), **shape)
    close(output(_run(each)), each[-1], 3e-6)


def test_gradients_are_those_of_the_dense_formula():
    q, limits, sides, storages, _ = case(kv_cases.INT4, kv_cases.INT4, chunks=8, size=8)
    run = functools.partial(kv_attention.run, storages=storages, scale=0.5)
    k, v = (kv_cases.side(**kv_cases.INT4, shape=(2, 2, 8, 1, 8), seed=i)[2] for i in (0, 1))

    def loss(attention):
        return lambda q: (attention(q) ** 2).sum()

    def packed(q):
        _, total, out = run(q, limits, *sides)
        return out / jnp.where(total > 0, total, 1)[..., None]

    def dense(q):
        scores = 0.5 * jnp.einsum("bhrd,bhtd->bhrt", q, k)
        seen = (jnp.arange(8) < limits[..., None])[:, None]
        return jnp.where(seen, jax.nn.softmax(jnp.where(seen, scores, -1e9)), 0) @ v

    got, expected = (jax.jit(jax.grad(loss(f)), compiler_options=QUICK)(q) for f in (packed, dense))
    close(got, expected, 1e-5)


def test_vmap_is_a_longer_batch_and_shapes_trace_once():
    each = case(kv_cases.UINT4, kv_cases.TABLE2)
    q, limits, sides, storages, exact = each
    chex.clear_trace_counter()

    @chex.assert_max_traces(n=1)
    def run(*arrays):
        return kv_attention.run(*arrays, storages=storages, scale=q.shape[-1] ** -0.5)

    over = jax.jit(jax.vmap(run, (0, None, None, None)), compiler_options=QUICK)
    for factor in (1.0, 0.0):
        found = over(jnp.stack([q, factor * q]), limits, *sides)
        both = [output([x[i] for x in found]) for i in (0, 1)]
        close(both[0], exact, 3e-6)
    mean = kv_cases.side(**kv_cases.TABLE2, shape=(2, 2, 9, 1, 64), seed=1)[2]
    close(both[1][0, 0, 0], mean[0, 0].mean(0), 1e-5)  # all scores are 0


def test_what_does_not_fit_is_refused():
    q, limits, (keys, values), storages, _ = case(kv_cases.INT4, kv_cases.INT4)

    def refused(says, q=q, keys=keys, values=values, storages=storages):
        with pytest.raises(UnsupportedInput, match=says):
            kv_attention.run(q, limits, keys, values, storages=storages, scale=1.0)

    refused("codes for", q=q[..., :32])
    refused("bits of 1, 2, 4 or 8", storages=(storages[0]._replace(bits=3), storages[1]))
    refused("whole bytes", storages=(storages[0]._replace(tile=3), storages[1]))
    refused("whole tiles", storages=(storages[0]._replace(tile=128), storages[1]))
    refused("scales for groups", keys=keys._replace(scales=keys.scales[:1]))
    refused("as many chunks", values=jax.tree.map(lambda x: x[:, :, :4], values))
