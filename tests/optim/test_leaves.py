"""What methods share whose senders meet in ways of their own: devices, resuming, bad gradients."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp import UnsupportedInput, optim
from jaxcomp.optim.leaves import meeting
from tests.optim.meeting_cases import DATA, NAMES, PARAMS, SENDERS, case


def mesh_of(devices):
    return jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("data",))


@functools.cache
def prepared(name):
    """A step on devices, and where a run begins."""
    method, step = case(name)
    mesh = mesh_of(SENDERS)
    chex.clear_trace_counter()
    step = optim.on_senders(chex.assert_max_traces(step, n=1), mesh, "data")
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    start = jax.device_put(PARAMS, everywhere), optim.init(method, PARAMS, mesh, "data")
    return jax.jit(step), start


def run(move, start, *batches):
    for batch in batches:
        start = move(*start, batch)[:2]
    return start


@pytest.mark.parametrize("name", NAMES)
def test_a_run_on_devices_resumes_bit_for_bit_and_lanes_know_what_all_have_alike(name):
    move, start = prepared(name)
    half = run(move, start, *[DATA] * 3)
    saved = jax.device_put(jax.device_get(half), jax.tree.map(lambda x: x.sharding, half))
    end, again = run(move, half, *[DATA] * 3), run(move, saved, *[DATA] * 3)
    jax.tree.map(np.testing.assert_array_equal, again, end)
    assert all((x != p).any() for x, p in zip(*map(jax.tree.leaves, (end[0], PARAMS)), strict=True))
    method, step = case(name)
    state = optim.shapes(method, PARAMS, mesh_of(1), "data", senders=SENDERS)
    lanes = jax.eval_shape(optim.on_senders(step, mesh_of(1), "data"), PARAMS, state, DATA)
    chex.assert_trees_all_equal_shapes_and_dtypes(lanes[:2], end)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_finite_is_counted_and_forgotten_and_zeros_move_nothing(name):
    move, start = prepared(name)
    bad = np.array(DATA)
    bad[2] = np.nan
    before = run(move, start, *[DATA] * (1 if name == "zero_one_adam" else 3))
    for begin in (before, run(move, before, *[DATA] * 3)):
        params, state = run(move, begin, bad)
        if not all(jnp.isfinite(x).all() for x in jax.tree.leaves(params)):
            params = begin[0]  # seen, and left out
        end = run(move, (params, state), DATA, DATA)
        assert all(np.isfinite(np.float32(x)).all() for x in jax.tree.leaves(end))
        assert optim.report(end[1]).skipped == 1
    end = run(move, start, *[0 * DATA] * 4)
    assert all(np.isfinite(np.float32(x)).all() for x in jax.tree.leaves(end))
    jax.tree.map(np.testing.assert_array_equal, end[0], start[0])


def test_senders_have_to_meet():
    with pytest.raises(UnsupportedInput, match=r"compressed_mean\(sign\(\), 'data'\)"):
        meeting(optim.sign(), "outer")
