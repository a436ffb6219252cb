"""More or fewer senders: means stay, shards are cut anew, and the run goes on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from jaxcomp import UnsupportedInput, optim
from jaxcomp.kernels.adam8bit import Moment
from jaxcomp.optim.senders import Shard, Total
from tests.optim.meeting_cases import case

PARAMS = {"b": jnp.zeros(2), "w": jnp.zeros((5, 13)), "layers": jnp.zeros((2, 30))}
TRANSFORM = optim.ef21(
    optim.compressed_mean(optim.sign(block=8), "data"), layers=lambda path, leaf: path == "layers"
)
GRADIENTS = jax.tree.map(
    lambda p: np.random.default_rng(p.size).normal(size=(8, *p.shape)).astype(np.float32), PARAMS
)


def step(params, state, batch):
    out, state = TRANSFORM.update(jax.tree.map(lambda x: x[0], batch), state)
    return params, state, out


def after(senders, start=None):
    mesh = Mesh(np.array(jax.devices()[:senders]), ("data",))
    state = optim.init(TRANSFORM, PARAMS, mesh, "data") if start is None else start(mesh)
    batch = jax.tree.map(lambda x: x[:senders], GRADIENTS)
    return jax.jit(optim.on_senders(step, mesh, "data"))(PARAMS, state, batch)


def numbered(leaf):
    """Shards with numbers that tell them apart."""
    if not isinstance(leaf, Shard):
        return leaf
    return Shard(1 + jnp.arange(leaf.value.size, dtype=jnp.float32).reshape(leaf.value.shape))


def test_means_stay_and_shards_are_cut_anew():
    _, state, _ = after(8)
    state = jax.tree.map(numbered, state, is_leaf=lambda x: isinstance(x, Shard))

    def fewer(mesh):
        return optim.across(state, optim.shapes(TRANSFORM, PARAMS, mesh, "data"))

    new = fewer(Mesh(np.array(jax.devices()[:3]), ("data",)))
    for name in PARAMS:
        old, now = (each.own.value[0][name] for each in (state, new))
        np.testing.assert_allclose(now.mean(0), old.mean(0), rtol=1e-6)
        np.testing.assert_allclose(now.mean(0), new.shared[name], atol=2.0)
    sums = [[each[2].value for each in state.own.value[1]] for state in (state, new)]
    few, layers, matrix = zip(*sums, strict=True)
    assert [x.shape for x in few] == [(8, 1), (3, 1)]  # of 2 entries
    np.testing.assert_array_equal(few[0][:2], few[1][:2])
    assert [x.shape for x in matrix] == [(8, 9), (3, 22)]  # of 65
    np.testing.assert_array_equal(*(x.reshape(-1)[:65] for x in matrix))
    assert [x.shape for x in layers] == [(8, 2, 4), (3, 2, 10)]  # of 30 each
    np.testing.assert_array_equal(*(x.swapaxes(0, 1).reshape(2, -1)[:, :30] for x in layers))
    _, again, _ = after(3, fewer)
    assert again.log.count == 2


def test_totals_keep_their_sum():
    state = optim.PerSender({"all": Total(jnp.array([3, 0, 4])), "each": jnp.array([5, 5, 5])})
    for count, expected in ((2, [4, 3]), (4, [2, 2, 2, 1])):
        like = jax.tree.map(lambda x, n=count: jnp.zeros((n, *x.shape[1:]), x.dtype), state)
        new = optim.across(state, like).value
        assert new["all"].value.tolist() == expected and new["each"].tolist() == [5] * count


@pytest.mark.parametrize("name", ["zero_one_adam", "outer", "scallion"])
def test_what_is_counted_over_all_is_a_total(name):
    init = jax.vmap(case(name)[0].init, axis_name="data", axis_size=2, in_axes=None)
    found = jax.tree.leaves(jax.eval_shape(init, PARAMS), is_leaf=lambda x: isinstance(x, Total))
    assert sum(isinstance(x, Total) for x in found) == 1


def test_codes_of_moments_go_with_their_scales():
    def moment(senders):
        codes = jnp.arange(senders)[:, None] * 7 + jnp.arange(256)
        return Moment(codes.astype(jnp.uint8), 1.0 + jnp.arange(senders)[:, None])

    old = moment(2)
    new = optim.across(optim.PerSender({"w": old}), optim.PerSender({"w": moment(3)})).value["w"]
    for x, y in zip(old, new, strict=True):
        np.testing.assert_array_equal(y, x[jnp.array([0, 1, 0])])


def test_codes_that_differ_have_no_mean():
    state = optim.PerSender({"codes": jnp.arange(2, dtype=jnp.uint8)[:, None], "n": jnp.arange(2)})
    with pytest.raises(UnsupportedInput, match="codes uint8"):
        optim.across(state, jax.tree.map(lambda x: jnp.zeros((4, *x.shape[1:]), x.dtype), state))


def test_shards_of_several_axes_are_not_cut_anew():
    transform = optim.error_feedback(
        optim.hierarchical(optim.compressed_mean(optim.sign(), "slices"), "chips")
    )

    def shapes(*counts):
        devices = np.array(jax.devices()[: counts[0] * counts[1]]).reshape(counts)
        axes = ("slices", "chips")
        return optim.shapes(transform, {"w": jnp.zeros(12)}, Mesh(devices, axes), axes)

    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes(2, 2))
    with pytest.raises(UnsupportedInput, match="senders along one axis"):
        optim.across(state, shapes(1, 2))


def test_states_of_something_else_are_refused():
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    state = optim.init(TRANSFORM, PARAMS, mesh, "data")
    other = optim.shapes(TRANSFORM, {**PARAMS, "w": jnp.zeros((7, 7))}, mesh, "data")
    with pytest.raises(UnsupportedInput, match="an array that fits"):
        optim.across(state, other)
    with pytest.raises(UnsupportedInput, match="a state like that"):
        optim.across(state, state.log)
