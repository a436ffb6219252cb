"""Lossless leaves: every bit back, in few bytes, wherever an array can be."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

import jaxcomp as jc
from jaxcomp.base import UnsupportedInput
from jaxcomp.formats import shardings
from jaxcomp.formats.layout import layout
from jaxcomp.formats.lossless import LEAST_MOVED, moved
from jaxcomp.weights.lossless import encode
from tests.checks import check_leaf

RNG = np.random.default_rng(0)


def gaussian(*shape, dtype="bfloat16"):
    return (RNG.normal(size=shape) * 0.02).astype(jnp.dtype(dtype))


def made(w, axes=(-2,), steps=256):
    return encode(w, layout(w.shape, axes), steps)


def assert_bits(found, expected):
    assert found.dtype == expected.dtype and found.shape == expected.shape
    assert np.asarray(found).tobytes() == np.asarray(expected).tobytes()


@pytest.mark.parametrize(
    ("dtype", "shape", "axes", "steps"),
    [
        ("bfloat16", (61, 15), (-1,), 4),  # a last block of fewer rows, and no pairs left over
        ("float16", (3, 8, 40), (-1,), 2),  # two free axes
        ("float32", (3, 8, 40), (-3, -2), 2),  # two packed ones
    ],
)
def test_any_bits_come_back(dtype, shape, axes, steps):
    word = f"u{jnp.dtype(dtype).itemsize}"
    wild = RNG.integers(0, 1 << 8 * jnp.dtype(dtype).itemsize, shape, dtype=word)
    wild = np.where(RNG.random(shape) < 0.1, wild, gaussian(*shape, dtype=dtype).view(word))
    leaf = made(wild.view(jnp.dtype(dtype)), axes, steps)
    assert_bits(leaf.dense(), wild.view(jnp.dtype(dtype)))
    assert leaf.intact()


def test_the_law_of_leaves():
    w = gaussian(2, 64, 40, dtype="float32")
    leaf = jc.weights.compress({"w": jnp.asarray(w)}, jc.weights.lossless(steps=32), axes=-2)["w"]
    assert_bits(check_leaf(leaf).astype(np.float32), w)
    assert_bits(leaf[1].dense(), w[1])
    assert_bits(jc.formats.take(leaf, jnp.array([3, 1]), axis=2), w[:, :, [3, 1]])


@pytest.fixture(scope="module")
def layers():
    """(dense, compressed): a scanned stack whose streams differ in length, an embedding, a head."""
    scale = np.float32([1, 3, 9])[:, None, None] ** RNG.normal(size=(3, 32, 32))
    dense = {
        "embedding": jnp.asarray(gaussian(40, 32)),
        "stack": jnp.asarray((gaussian(3, 32, 32) * scale).astype(jnp.bfloat16)),
        "head": jnp.asarray(gaussian(32, 48)),
    }
    stack = [made(np.asarray(w)) for w in dense["stack"]]  # so small, they take more bytes
    axes = {"embedding": (-1,), "head": (-2,)}
    small = {name: made(np.asarray(dense[name]), axes[name]) for name in axes}
    return dense, small | {"stack": jax.tree.map(lambda *x: jnp.stack(x), *stack[0].alike(stack))}


def model(params, tokens):
    x = params["embedding"][tokens]
    x, _ = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, params["stack"])
    return x @ params["head"], x @ params["embedding"].T


def test_lifted_functions_give_the_same_bits(layers):
    dense, small = layers
    tokens = jnp.arange(24).reshape(2, 12)
    lifted = jax.jit(chex.assert_max_traces(jc.lift(model), 1))
    expected = jax.jit(model)(dense, tokens)
    jax.tree.map(assert_bits, lifted(small, tokens), expected)
    jax.tree.map(assert_bits, lifted(jax.tree.map(jnp.copy, small), tokens), expected)
    report = jc.lift(model).report(small, tokens)
    ran = {row.ran for row in jc.lift(model).report(small, tokens, platform="cuda").rows}
    assert ran == {"take", "exponent_decode, product"}
    assert not report.materialised


def test_vmap_over_stacked_matrices(layers):
    dense, small = layers
    found = jax.vmap(lambda w: w.dense())(small["stack"])
    assert_bits(found, dense["stack"])


def test_rows_are_taken_by_their_blocks():
    w = gaussian(32, 204)
    leaf = made(w, steps=1)
    at = jnp.array([[3, 203], [77, 500]])
    for rows in (at, jnp.arange(204)):  # few, and enough to decode all
        found = jax.jit(jc.formats.take, static_argnames="axis")(leaf, rows, axis=1)
        assert_bits(found, w[:, np.minimum(rows, 203)])
    few = jax.jit(lambda leaf: jc.formats.take(leaf, at, 1)).trace(leaf).jaxpr
    assert "u8[4,192]" in str(few) and "u8[34,192]" not in str(few)  # 4 of 34 blocks
    assert_bits(jc.lift(lambda w, i: w.T[i])(leaf, at[0]), w.T[at[0]])


def test_long_stacks_spill_below_the_others():
    w = gaussian(256, 64)
    w[64:128] *= np.exp2(RNG.integers(-9, 9, (64, 64))).astype(w.dtype)
    leaf = made(w, (-1,), 8)
    assert leaf.deep.reshape(-1).tolist() == [0, 0, 1, 2, 0, 0, 0, 0]
    assert_bits(leaf.dense(), w)
    longest = leaf.words.shape[-1] + leaf.depth
    assert leaf.words.size + leaf.spill.size < 0.9 * leaf.head.shape[0] * longest


def test_a_mesh_holds_its_share_of_the_blocks():
    mesh = jax.make_mesh((8,), ("out",), axis_types=(AxisType.Auto,))
    w = gaussian(16, 128)
    leaf = made(w, steps=1)
    spec = PartitionSpec(None, "out")
    placed = jax.device_put(leaf, shardings(leaf, spec, mesh))
    assert placed.words.addressable_shards[0].data.size * 8 == leaf.words.size
    assert_bits(jax.jit(jc.formats.dense)(placed), w)

    x = jnp.eye(16, dtype=jnp.bfloat16)
    inside = jax.shard_map(jnp.matmul, mesh=mesh, in_specs=(PartitionSpec(), spec), out_specs=spec)
    assert_bits(jax.jit(jc.lift(inside))(x, placed), w)


def test_damage_is_told_and_stays_in_bounds():
    leaf = made(gaussian(64, 64))
    dense = jax.jit(lambda leaf: (leaf.dense(), leaf.intact()))
    for name in ("head", "words", "freq", "kinds", "escapes"):
        part = np.asarray(getattr(leaf, name))
        wild = RNG.integers(0, 1 << 8 * part.itemsize, part.shape, dtype=part.dtype)
        found, intact = dense(dataclasses.replace(leaf, **{name: jnp.asarray(wild)}))
        assert found.shape == (64, 64) and (name in ("kinds", "escapes") or not intact)


@pytest.mark.parametrize("name", ["words", "escapes", "freq", "kinds"])
def test_parts_of_other_counts_of_blocks_are_told(name):
    """Or a kernel would read the stack of another block, or beyond the last."""
    leaf = made(gaussian(64, 64), steps=1)
    part = getattr(leaf, name)
    for other in (part[:, :-1], jnp.concatenate([part, part], 1), part.reshape(-1)):
        with pytest.raises((UnsupportedInput, IndexError)):
            jax.eval_shape(lambda w: w.dense(), dataclasses.replace(leaf, **{name: other}))


def test_what_cuts_a_matrix_is_told():
    leaf = made(gaussian(30, 64), steps=2)
    with pytest.raises(UnsupportedInput, match="coded in blocks"):
        leaf[:, 3:5]
    with pytest.raises(UnsupportedInput, match="whole matrices"):
        dataclasses.replace(leaf, raw=leaf.raw[:, :32]).dense()


@pytest.mark.parametrize("shape", [(1, 37, 3, 600), (1, 16, 4200)])
def test_axes_move_by_tiles_as_they_do_at_once(shape):
    x = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    assert x.size >= LEAST_MOVED
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec(*[None] * (len(shape) - 1), "d")

    def both(x):  # from the last axis to the second, and back
        there = moved(x, -1, 1 - len(shape))
        return jnp.moveaxis(there, 1, -1), moved(there, 1 - len(shape), -1)

    split = jax.shard_map(both, mesh=mesh, in_specs=spec, out_specs=(spec, spec))
    there, back = jax.jit(split)(jnp.asarray(x))
    np.testing.assert_array_equal(there, x)
    np.testing.assert_array_equal(back, x)
