"""The kernels against the reference, through every way that JAX runs a function, and refusals."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from jaxcomp.base import UnsupportedInput
from jaxcomp.kernels import adam8bit
from jaxcomp.kernels.adam8bit_lax import moments_of
from jaxcomp.kernels.dynamic_map import SIGNED
from tests.kernels.moment_cases import FOUR, LION, STATIC, case
from tests.kernels.quant_cases import QUICK


def run(static, g, numbers, *arrays):
    maps, block = static["maps"], static["block"]
    return adam8bit.run(static["rule"], g, moments_of(arrays), numbers, maps=maps, block=block)


def same(got, expected):
    """Programs that were compiled apart round sums of products their own way, by an ulp."""
    for x, y in zip(got, expected, strict=True):
        assert x.shape == y.shape and x.dtype == y.dtype
        if x.dtype == jnp.uint8:
            assert (np.asarray(x) != np.asarray(y)).mean() < 1e-3
        else:
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


# Rows that are no multiple of a tile, and a state of one row.
@pytest.mark.parametrize("kernel", [adam8bit.cuda, adam8bit.tpu])
@pytest.mark.parametrize("static", [STATIC, FOUR], ids=["8", "4"])
def test_kernels_are_the_reference(kernel, static):
    g, *rest = case(static, rows=35)
    arrays = [g.at[3, 4].set(jnp.nan).at[5].set(0), *rest]
    expected = jax.jit(functools.partial(adam8bit.reference, **static))(*arrays)
    call = functools.partial(kernel, **static, interpret=True)
    same(jax.jit(call, compiler_options=QUICK)(*arrays), expected)


def test_one_row_of_a_kernel():
    arrays = case(LION, rows=1, blocks=5)
    expected = jax.jit(functools.partial(adam8bit.reference, **LION))(*arrays)
    for kernel in (adam8bit.cuda, adam8bit.tpu):
        call = functools.partial(kernel, **LION, interpret=True)
        same(jax.jit(call, compiler_options=QUICK)(*arrays), expected)


def test_many_axes_are_rows():
    g, numbers, *rest = case(LION, rows=6)
    step = jax.jit(functools.partial(run, LION))
    deep = step(g.reshape(2, 3, -1), numbers, *(x.reshape(2, 3, -1) for x in rest))
    flat = step(g, numbers, *rest)
    same([x.reshape(6, -1) for x in jax.tree.leaves(deep)], jax.tree.leaves(flat))


@pytest.mark.parametrize("shared", [True, False], ids=["one number", "a number each"])
def test_vmap_equals_a_loop(shared):
    cases = [case(LION, rows=3, seed=seed) for seed in range(2)]
    g, numbers, *arrays = (jnp.stack(x) for x in zip(*cases, strict=True))
    numbers = numbers if not shared else numbers[0]
    axes = (0, None if shared else 0, 0, 0)
    both = jax.jit(jax.vmap(functools.partial(run, LION), axes))(g, numbers, *arrays)
    alone_step = jax.jit(functools.partial(run, LION))
    for i, each in enumerate(cases):
        same([x[i] for x in jax.tree.leaves(both)], jax.tree.leaves(alone_step(*each)))


def test_shard_map_steps_shards():
    mesh = jax.make_mesh((4,), ("n",), axis_types=(AxisType.Auto,))
    spec, whole = PartitionSpec("n"), PartitionSpec()
    arrays = case(LION, rows=8)
    on = jax.shard_map(
        functools.partial(run, LION),
        mesh=mesh,
        in_specs=(spec, whole, spec, spec),
        out_specs=spec,
    )
    expected = jax.jit(functools.partial(run, LION))(*arrays)
    same(jax.tree.leaves(jax.jit(on)(*arrays)), jax.tree.leaves(expected))


def test_one_trace_per_shape():
    step = jax.jit(chex.assert_max_traces(lambda *arrays: run(LION, *arrays), n=1))
    for seed in range(2):
        step(*case(LION, rows=2, seed=seed))


def test_what_has_a_kernel():
    g = jax.ShapeDtypeStruct((64, 512), jnp.bfloat16)
    for platform in ("cuda", "tpu"):
        assert adam8bit.supports(g, STATIC["maps"], 256, platform)
        assert adam8bit.supports(g, FOUR["maps"], 256, platform)
        assert not adam8bit.supports(g, STATIC["maps"], 48, platform)
        empty = jax.ShapeDtypeStruct((0, 512), jnp.float32)
        assert not adam8bit.supports(empty, STATIC["maps"], 256, platform)
    assert adam8bit.supports(g, FOUR["maps"], 128, "cuda")
    assert not adam8bit.supports(g, FOUR["maps"], 128, "tpu")  # halves of 64 lanes
    assert not adam8bit.supports(g, STATIC["maps"], 256, "cpu")


def test_refusals_name_the_argument():
    g, numbers, codes, scales = case(LION, rows=2)
    call = functools.partial(adam8bit.run, adam8bit.lion, maps=(SIGNED,))
    moment = (adam8bit.Moment(codes, scales),)
    with pytest.raises(UnsupportedInput, match="block, a multiple of 16, got 40"):
        call(g, moment, numbers, block=40)
    with pytest.raises(UnsupportedInput, match="whole blocks of 384"):
        call(g, moment, numbers, block=384)
    with pytest.raises(UnsupportedInput, match="1 moments and 4 numbers"):
        call(g, moment, numbers[:2], block=128)
    with pytest.raises(UnsupportedInput, match="codes and scales"):
        call(g, moment, numbers, block=64)
