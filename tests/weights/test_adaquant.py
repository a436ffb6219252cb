import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.base import UnsupportedInput
from jaxcomp.formats import format as grids
from jaxcomp.weights import adaquant, gptq, rtn
from jaxcomp.weights.adaquant import Moving, lower, rounded, solve
from tests.weights.rounding_cases import compiled, layer

INT3_G32 = jc.formats.INT3_G32
UINT2 = jc.formats.UINT2_G32._replace(zero="bfloat16", pad=True)
LAYER = layer(24, 80, 400)


def run(method, case=LAYER):
    return method.compress(case.w, case.statistics, (-1,))


@pytest.mark.parametrize("format", [jc.formats.INT3, UINT2, jc.formats.TERNARY], ids=str)
def test_outputs_are_closer_than_those_of_rounded_weights(format):
    near, leaf = run(rtn(format)), run(adaquant(format))
    assert LAYER.objective(leaf) < 0.75 * LAYER.objective(near)
    assert jax.tree.structure(leaf) == jax.tree.structure(near) and leaf.nbytes == near.nbytes


def test_it_goes_on_from_gptq():
    before = LAYER.objective(run(gptq(UINT2, order="activation")))
    assert LAYER.objective(run(adaquant(UINT2, start="gptq"))) < 0.99 * before


@pytest.mark.parametrize("start", ["rtn", "gptq"])
def test_no_step_is_the_start(start):
    first = rtn(UINT2) if start == "rtn" else gptq(UINT2, order="activation")
    jax.tree.map(
        np.testing.assert_array_equal, run(adaquant(UINT2, start=start, steps=0)), run(first)
    )


def test_weights_on_the_grid_come_back_exactly():
    codes = np.random.default_rng(0).integers(-3, 4, (24, 80))
    codes[:, 0] = 3
    on_grid = LAYER._replace(w=jnp.asarray(codes * 0.25, jnp.float32))
    leaf = run(adaquant(jc.formats.INT3, steps=20), on_grid)
    np.testing.assert_array_equal(leaf.dense(), on_grid.w)


def test_codes_follow_gradients_as_if_they_were_not_rounded():
    format = UINT2._replace(group=16, scale="float32", zero="float32")
    w = jnp.asarray([[0.2, -0.3, 0.9, 5.0]])[None]  # the last lies beyond the grid
    scales, zeros = jnp.full((1, 1), 0.5), jnp.ones((1, 1))
    start = Moving(w / 0.5, jnp.zeros((1, 1)), zeros)
    gradient = jax.grad(lambda m: rounded(m, scales, format).sum())(start)
    np.testing.assert_allclose(gradient.values[0, 0], [0.5, 0.5, 0.5, 0.0])
    # dQ/ds is what rounding adds (learned step size), at the ends the level itself; s = 2**t / 2.
    u = np.array([0.4, -0.6, 1.8])
    expected = (np.round(u) - u).sum() + (3 - 1)
    np.testing.assert_allclose(gradient.scales, expected * 0.5 * np.log(2), rtol=1e-5)
    np.testing.assert_allclose(gradient.zeros, -0.5)  # only what lies beyond moves with the zero


def test_the_best_of_all_steps_is_kept():
    """At a rate that only harms, the start comes back."""
    w, h = LAYER.w, jnp.eye(80)
    grouped = grids.in_groups(w, INT3_G32._replace(pad=True))
    scales, _ = grids.fit(grouped, INT3_G32)
    format = INT3_G32._replace(scale="float32", pad=True)
    best = jax.jit(lambda: solve(w, grouped, scales, None, h, format, 3, 1e3))()
    np.testing.assert_array_equal(best.scales, 0)


def test_errors_that_overflowed_are_never_lower():
    errors = jnp.asarray([-jnp.inf, jnp.nan, jnp.inf, -1.0, 2.0, 0.5])
    np.testing.assert_array_equal(lower(errors, jnp.ones(6)), [0, 0, 0, 0, 0, 1])


def test_one_program_for_weights_of_one_shape():
    stats = jc.observe(lambda w, x: x @ w["a"] + x @ w["b"], params := both(), [LAYER.x])
    small = jc.weights.compress(params, adaquant(UINT2, steps=50), stats=stats)
    near = jc.weights.compress(params, rtn(UINT2), stats=stats)
    for name in params:
        case = LAYER._replace(w=params[name].T)
        off = [case.objective(leaf[name].dense().T) for leaf in (small, near)]
        assert off[0] < 0.95 * off[1]
    again = adaquant(UINT2, steps=50)
    assert compiled(lambda: jc.weights.compress(params, again, stats=stats)) == 0


def both():
    return {"a": LAYER.w.T, "b": layer(24, 80, 1, seed=1).w.T}


def test_a_start_that_is_none_is_refused():
    with pytest.raises(UnsupportedInput, match="'rtn', 'gptq'"):
        adaquant(UINT2, start="awq")
