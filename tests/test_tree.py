"""Paths, selection, exact sizes, and what of a compressed tree is trained."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jaxcomp as jc

FORMAT = jc.formats.INT4._replace(group=16, scale="float32")
W = jnp.asarray(np.random.default_rng(0).normal(size=(32, 8)), jnp.float32)
TREE = {"a": {"kernel": jc.formats.quantize(W, FORMAT), "bias": jnp.ones(8)}, "n": jnp.arange(3)}


def test_a_compressed_leaf_is_one_leaf_with_one_path():
    assert [path for path, _ in jc.tree.leaves(TREE)] == ["a/bias", "a/kernel", "n"]
    found = jc.tree.map_where(
        lambda path, leaf: leaf.shape, TREE, lambda path, leaf: path.startswith("a")
    )
    assert found["a"] == {"kernel": (32, 8), "bias": (8,)} and found["n"] is TREE["n"]


def test_a_leaf_inside_a_variable_of_flax_has_the_path_that_its_array_had():
    state = {"kernel": nnx.Param(W)}
    small = jc.weights.compress(state, jc.weights.rtn(FORMAT), axes=-2)
    ((before, _),), ((after, leaf),) = jc.tree.leaves(state), jc.tree.leaves(small)
    assert before == after and isinstance(leaf, jc.formats.QTensor)


def test_sizes_count_codes_and_scales():
    codes, scales = 32 * 8 // 2, 2 * 8 * 4
    assert jc.tree.nbytes(TREE["a"]["kernel"]) == codes + scales
    assert jc.tree.nbytes(TREE) == codes + scales + 8 * 4 + 3 * 4
    assert jc.tree.bits_per_weight(TREE) == 8 * (codes + scales) / (32 * 8)
    assert jc.tree.bits_per_weight({"w": W}) == 32


def test_split_and_join_are_inverse_and_leave_integers_out():
    trained, rest = jc.tree.split(TREE)
    assert trained["a"]["kernel"].codes is None and rest["a"]["kernel"].scales is None
    assert {x.dtype for x in jax.tree.leaves(trained)} == {jnp.dtype("float32")}
    joined = jc.tree.join(trained, rest)
    assert jax.tree.structure(joined) == jax.tree.structure(TREE)
    assert all(a is b for a, b in zip(*map(jax.tree.leaves, (joined, TREE)), strict=True))
    scales, _ = jc.tree.split(TREE, lambda path, x: path.endswith("scales"))
    assert [x.shape for x in jax.tree.leaves(scales)] == [(2, 8)]


def test_scales_are_tuned_with_optax_and_codes_stay():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(64, 32)), jnp.float32)
    apply = jc.lift(lambda p, x: x @ p["a"]["kernel"] + p["a"]["bias"])
    target = x @ W + 1  # the bias is right already

    def loss(trained, rest):
        return jnp.mean((apply(jc.tree.join(trained, rest), x) - target) ** 2)

    trained, rest = jc.tree.split(TREE)
    update = optax.adam(3e-3)

    @jax.jit
    def step(state, _):
        trained, moments = state
        value, gradient = jax.value_and_grad(loss)(trained, rest)
        change, moments = update.update(gradient, moments)
        return (optax.apply_updates(trained, change), moments), value

    (tuned, _), values = jax.lax.scan(step, (trained, update.init(trained)), length=100)
    assert values[-1] < 0.95 * values[0]
    kernel = jc.tree.join(tuned, rest)["a"]["kernel"]
    assert kernel.codes is TREE["a"]["kernel"].codes
