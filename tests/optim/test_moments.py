"""How blocks lie on leaves, what has them, sharding like the parameters, resuming from Orbax."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxcomp import optim, tree
from jaxcomp.base import UnsupportedInput
from jaxcomp.kernels.adam8bit import Moment
from jaxcomp.optim.moments import Layout, layout

ALL = {"where": lambda path, leaf: leaf.ndim > 0}
PARAMS = {"w": jnp.ones((16, 256)), "b": jnp.zeros(3, jnp.bfloat16), "s": jnp.float32(2)}


def gradients(step, params=PARAMS):
    random = np.random.default_rng(step)
    return jax.tree.map(lambda p: jnp.asarray(random.normal(size=p.shape), p.dtype), params)


def test_blocks_run_along_the_fewest_axes_that_hold_whole_ones():
    assert layout((64, 512), 256) == Layout((64,), 512, 0)
    assert layout((3, 3, 32, 64), 256) == Layout((3, 3), 2048, 0)
    assert layout((4, 96, 96), 256) == Layout((4,), 9216, 0)
    assert layout((50, 99), 256) == Layout((), 5120, 170)
    assert layout((300,), 256) == Layout((), 512, 212)


def test_what_is_small_or_an_embedding_is_float32_and_bytes_are_exact():
    params = {
        "embedding": jnp.ones((64, 256)),
        "conv": jnp.ones((3, 3, 32, 64)),
        "odd": jnp.ones((50, 99)),
        "bias": jnp.ones(64),
    }
    state = optim.adam8bit(1e-3).init(params)[0]
    kinds = {name: isinstance(leaf, Moment) for name, leaf in state.moments[0].items()}
    assert kinds == {"embedding": False, "conv": True, "odd": True, "bias": False}
    assert state.moments[0]["conv"].codes.shape == params["conv"].shape
    sizes = {"conv": 9 * 32 * 64, "odd": 50 * 99}
    scales = 9 * 8 + 20
    in_codes = 2 * (sum(sizes.values()) + 4 * scales)
    assert tree.nbytes(state) == in_codes + 8 * (64 * 256 + 64) + 4  # and the count
    assert in_codes <= 0.26 * 8 * sum(sizes.values())
    four = optim.adam4bit(1e-3).init({"w": PARAMS["w"]})[0]
    assert tree.nbytes(four.moments) == 2 * (16 * 128 + 16 * 4) <= 0.13 * 8 * 4096


@pytest.mark.parametrize("shape", [(3, 5, 96), (50, 30), (300,)])
def test_every_layout_steps_as_float32_does(shape):
    params = {"w": jnp.zeros(shape)}
    one, other = optim.adam8bit(1e-2, **ALL), optax.adam(1e-2)
    step = jax.jit(one.update)
    a, b = one.init(params), other.init(params)
    for i in range(2):
        g = gradients(i, params)
        out, a = step(g, a)
        expected, b = other.update(g, b)
    # The sizes of steps of Adam are about the rate; the second one feels the rounding of the first.
    np.testing.assert_allclose(out["w"], expected["w"], atol=1e-3)
    assert out["w"].shape == shape and abs(out["w"]).max() > 5e-3


@pytest.mark.parametrize("where", [ALL["where"], lambda path, leaf: False], ids=["8 bits", "f32"])
def test_what_is_not_finite_is_seen_and_not_kept_and_zeros_do_not_move(where):
    transform = optim.adam8bit(1e-2, where=where)
    update = jax.jit(transform.update)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    start = gradients(0)
    start["w"] = start["w"].at[:, 7].set(0)
    out, before = update(start, transform.init(PARAMS))
    bad = jax.tree.map(lambda g: g.at[..., :1].set(jnp.nan) if g.ndim else g * jnp.inf, start)
    out, after = update(bad, before)
    assert all(jnp.isnan(x).any() for x in jax.tree.leaves(out))
    assert jnp.isfinite(out["w"][:, 1:]).all()
    for new, old in zip(after[0].moments, before[0].moments, strict=True):
        assert jax.tree.all(jax.tree.map(lambda x: jnp.isfinite(x).all(), new))
        if where("", PARAMS["w"]):
            jax.tree.map(np.testing.assert_array_equal, new["w"], old["w"])
    for _ in range(3):
        out, after = update(zeros, after)
    assert (out["w"][:, 7] == 0).all() and (out["w"][:, 8] != 0).all()


def test_a_run_resumes_from_orbax_bit_for_bit_and_traces_once(tmp_path):
    transform = optax.chain(
        optim.adam8bit(
            optax.linear_schedule(1e-2, 1e-3, 10), weight_decay=0.1, stochastic_rounding=True
        ),
    )
    chex.clear_trace_counter()
    update = jax.jit(chex.assert_max_traces(transform.update, n=1))
    params = {**PARAMS, "h": jnp.ones((16, 256), jnp.bfloat16)}
    state = transform.init(params)
    for i in range(4):
        if i == 2:
            with ocp.StandardCheckpointer() as checkpointer:
                checkpointer.save(tmp_path / "state", state)
                checkpointer.wait_until_finished()
                shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
                saved = checkpointer.restore(tmp_path / "state", shapes)
        out, state = update(gradients(i, params), state, params)
    for i in (2, 3):
        again, saved = update(gradients(i, params), saved, params)
    assert jax.tree.structure(saved) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, (again, saved), (out, state))


def test_a_state_lies_as_its_parameters_do():
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    params = {"w": jnp.ones((16, 2048)), "few": jnp.ones((16, 512)), "b": jnp.ones(8)}
    specs = {"w": P("a", "b"), "few": P("a", "b"), "b": P("b")}
    shardings = jax.tree.map(
        lambda spec: NamedSharding(mesh, spec), specs, is_leaf=lambda x: isinstance(x, P)
    )
    transform = optim.adam8bit(1e-3)
    shapes = jax.eval_shape(transform.init, params)
    found = optim.state_shardings(shapes, shardings)
    m = found[0].moments[0]
    assert m["w"] == Moment(shardings["w"], shardings["w"]) and m["b"] == shardings["b"]
    assert m["few"] == Moment(shardings["few"], NamedSharding(mesh, P("a", None)))
    state = jax.jit(transform.init, out_shardings=found)(params)
    codes = state[0].moments[0]["w"].codes
    assert codes.addressable_shards[0].data.shape == (8, 512)
    g = jax.device_put({"w": params["w"]}, {"w": shardings["w"]})
    one = jax.jit(lambda g, m: transform.update(g, m)[0]["w"])
    w = lambda tree: {"w": tree["w"]}  # noqa: E731
    alone = (state[0]._replace(moments=tuple(map(w, state[0].moments))), *state[1:])
    text = one.lower(g, alone).compile().as_text()
    assert not re.search(r" (all-|reduce-scatter|collective-permute)[a-z\-]*\(", text)


def test_what_is_no_parameter_lies_everywhere_and_what_is_masked_is_left_out():
    mesh = jax.make_mesh((8,), ("a",), axis_types=(AxisType.Auto,))
    params = {"w": jnp.ones((16, 256)), "b": jnp.ones(8)}
    cut = NamedSharding(mesh, P("a"))
    for transform in (
        optax.masked(optim.adam8bit(1e-3), {"w": True, "b": False}),
        optim.frugal(1e-3),
    ):
        shapes = jax.eval_shape(transform.init, params)
        found = optim.state_shardings(shapes, {"w": cut, "b": cut})
        assert jax.tree.structure(found) == jax.tree.structure(shapes)
        jax.jit(transform.init, out_shardings=found).lower(params)


def test_refusals():
    with pytest.raises(UnsupportedInput, match="block, a multiple of 16, got 100"):
        optim.adam8bit(1e-3, block=100)
    with pytest.raises(UnsupportedInput, match="b2 of at least 0 and below 1, got 1"):
        optim.adam8bit(1e-3, b2=1)
    with pytest.raises(UnsupportedInput, match="eps of at least 0"):
        optim.adam8bit(1e-3, eps=-1.0)
    with pytest.raises(UnsupportedInput, match="expected w/n of a floating dtype, got int32"):
        optim.adam8bit(1e-3).init({"w": {"n": jnp.arange(3)}})
