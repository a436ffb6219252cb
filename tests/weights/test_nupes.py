"""Powers with learned exponents and codes: closer outputs than searched ones and than integers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.base import UnsupportedInput
from jaxcomp.formats import INT3, INT4
from jaxcomp.formats.level_rules import power_levels
from jaxcomp.weights import gptq, nupes, power, rtn
from jaxcomp.weights.nupes import EXPONENTS, SEARCHED, Moving, coordinates, rounded, solve
from tests.checks import check_leaf, check_lift
from tests.weights.rounding_cases import compiled, layer

LAYER = layer(48, 80, 400, heavy=True)
FEW = EXPONENTS[::SEARCHED]
rng = np.random.default_rng(0)


def run(method, case=LAYER):
    return method.compress(case.w, case.statistics, (-1,))


@pytest.mark.usefixtures("quick")
def test_learned_powers_beat_searched_ones_and_these_integers():
    leaves = {
        "integers": run(rtn(INT3, clip=True, norm=2.0)),
        "searched": run(power(INT3, exponents=FEW)),
        "learned": run(nupes(INT3, start="power")),
        "integers of gptq": run(gptq(INT3, clip=True)),
        "of gptq": run(nupes(INT3, steps=0)),
        "learned of gptq": run(nupes(INT3)),
    }
    off = {name: LAYER.objective(leaf) for name, leaf in leaves.items()}
    assert off["searched"] < 0.7 * off["integers"]
    assert off["learned"] < 0.8 * off["searched"]
    assert off["of gptq"] < 0.8 * off["integers of gptq"]
    assert off["learned of gptq"] < 0.7 * off["learned"]
    assert off["learned of gptq"] < 0.995 * off["of gptq"]
    assert leaves["learned"].nbytes == leaves["searched"].nbytes
    before = np.array(FEW)[np.asarray(leaves["searched"].choices)]
    after = np.array(EXPONENTS)[np.asarray(leaves["learned"].choices)]
    assert (before != after).mean() > 0.3  # exponents that the search does not have
    check_leaf(leaves["learned"])


def test_no_step_is_the_search():
    searched, start = run(power(INT3, exponents=FEW)), run(nupes(INT3, start="power", steps=0))
    np.testing.assert_array_equal(start.dense(), searched.dense())


@pytest.mark.parametrize("start", ["power", "gptq"])
def test_weights_on_the_grid_come_back_exactly(start):
    codes = rng.integers(0, 8, (48, 80))
    codes[:, 0] = 7  # the scale is found by the largest level
    choices = SEARCHED * rng.integers(0, len(FEW), 48)
    tables = np.array([power_levels(3, a) for a in EXPONENTS], np.float32)[choices]
    scales = 2.0 ** rng.integers(-2, 3, (48, 1)).astype(np.float32)
    w = jnp.asarray(np.take_along_axis(tables, codes, 1) * scales)
    leaf = run(nupes(INT3, start=start, steps=20), LAYER._replace(w=w))
    np.testing.assert_allclose(leaf.dense(), w, rtol=1e-6)


def test_gradients_are_those_of_the_power_and_of_levels_in_proportion():
    format, a, s = INT3._replace(scale="float32"), 0.5, 2.0
    v = jnp.asarray([[-4.0, -1.3, 0.2, 1.6, 2.4, 9.0]])
    moving = Moving(v, jnp.full((1, 1), a), jnp.zeros((1, 1)))
    q = np.array([-4.0, -1, 0, 2, 2, 3])
    value = s * np.sign(q) * (np.abs(q) / 3) ** (1 / a)
    scales = jnp.full((1, 1), s)
    np.testing.assert_allclose(rounded(moving, scales, format)[0], value, rtol=1e-5)
    gradient = jax.grad(lambda m: rounded(m, scales, format).sum())(moving)
    slopes = np.array([3, 1, 3, 5]) / 9 * s  # from level to level: none vanishes at 0
    np.testing.assert_allclose(gradient.codes[0, 1:5], slopes, rtol=1e-5)
    assert gradient.codes[0, 5] == 0
    size = np.maximum(np.abs(q), 1) / 3
    np.testing.assert_allclose(gradient.exponents, -(value * np.log(size)).sum() / a**2, rtol=1e-5)
    np.testing.assert_allclose(gradient.scales, value.sum() * np.log(2), rtol=1e-5)


def test_coordinates_are_between_the_levels():
    ladder = np.asarray(power_levels(3, EXPONENTS[10]), np.float32)
    u = jnp.asarray([[*ladder[:-1] + 0.25 * np.diff(ladder), ladder[-1], 9.0, -9.0]])
    v = coordinates(u, jnp.array([10]), 3)
    np.testing.assert_allclose(v[0], [*np.arange(-4, 3) + 0.25, 3, 3, -4], atol=1e-5)


def test_the_best_of_all_steps_is_kept():
    """At a rate that only harms, the start comes back."""
    w = layer(48, 80, 1).w
    scales = jnp.abs(w).max(1, keepdims=True)
    codes = coordinates(w / scales, jnp.full(48, 10), 3)
    start = Moving(codes, jnp.full((48, 1), EXPONENTS[10]), jnp.zeros((48, 1)))
    best = jax.jit(lambda: solve(w, jnp.eye(80), start, scales, INT3, 3, 1e3))()
    np.testing.assert_array_equal(best.codes, start.codes)


@pytest.mark.usefixtures("quick")
def test_scanned_layers_and_a_second_weight_share_one_program():
    params = {"w": jnp.stack([LAYER.w.T, layer(48, 80, 1, seed=1).w.T])}

    def model(p, x):
        return jax.lax.scan(lambda c, w: (c, x @ w), 0.0, p["w"])[1]

    stats = jc.observe(model, params, [LAYER.x])
    small = jc.weights.compress(params, nupes(INT3), stats=stats)
    near = jc.weights.compress(params, power(INT3), stats=stats)
    for k in range(2):
        case = LAYER._replace(w=params["w"][k].T)
        off = [case.objective(leaf["w"].dense()[k].T) for leaf in (small, near)]
        assert off[0] < 0.6 * off[1]
    assert not check_lift(model, small, LAYER.x[:4], atol=1e-3).materialised
    again = nupes(INT3)
    assert compiled(lambda: jc.weights.compress(params, again, stats=stats)) == 0


def test_what_it_cannot_start_from_or_store_is_refused():
    with pytest.raises(UnsupportedInput, match="'gptq', 'power'"):
        nupes(INT4, start="rtn")
    with pytest.raises(UnsupportedInput, match="set group=-1"):
        nupes(jc.formats.INT4_G32)
    with pytest.raises(UnsupportedInput, match="2 to 8 bits"):
        nupes(INT4._replace(bits=1))
