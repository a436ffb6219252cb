import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.base import UnsupportedInput
from jaxcomp.weights import hqq, rtn
from jaxcomp.weights.hqq import best_zero, outliers
from tests.weights.rounding_cases import compiled, layer

FORMAT = jc.formats.UINT3_G32._replace(zero="bfloat16")
LAYER = layer(32, 96, 200, heavy=True)


def run(method, w=LAYER.w):
    return method.compress(w, None, (-1,))


def power(leaf, p, w=LAYER.w):
    return float((jnp.abs(leaf.dense() - w) ** p).sum())


@pytest.mark.parametrize(("norm", "beta"), [(0.5, 2.0), (0.7, 10.0), (1.0, 2.0)])
def test_large_errors_are_the_least_of_their_term(norm, beta):
    off = np.linspace(-2, 2, 81)
    e = np.linspace(-2, 2, 8001)[:, None]
    term = np.abs(e) ** norm / norm + beta / 2 * (e - off) ** 2
    found = np.asarray(outliers(jnp.asarray(off, jnp.float32), beta, norm), np.float64)
    reached = np.abs(found) ** norm / norm + beta / 2 * (found - off) ** 2
    np.testing.assert_allclose(reached, term.min(0), atol=2e-3)
    assert (reached <= np.abs(off) ** norm / norm + 1e-6).all()  # never worse than e = off
    assert (found == 0).any() and (found != 0).any()


def test_the_zero_is_the_least_of_its_sum():
    rng = np.random.default_rng(0)
    levels = jnp.asarray(rng.integers(0, 8, (3, 16)), jnp.float32)
    u = levels - 2.3 + jnp.asarray(rng.standard_normal((3, 16)), jnp.float32)
    tried = np.linspace(0, 5, 5001)
    sums = np.square(np.asarray(u - levels)[:, :, None] + tried).sum(1)
    np.testing.assert_allclose(best_zero(levels, u), tried[sums.argmin(1)], atol=1e-3)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_weights_with_heavy_tails_and_their_outputs_are_closer_than_rounded_ones(bits):
    format = FORMAT._replace(bits=bits)
    near, leaf = run(rtn(format)), run(hqq(format))
    assert power(leaf, 0.7) < 0.97 * power(near, 0.7)
    assert power(leaf, 2) < 0.97 * power(near, 2)
    assert LAYER.objective(leaf) < 0.97 * LAYER.objective(near)
    assert leaf.nbytes == near.nbytes == 32 * (96 * bits // 8 + 3 * (2 + 2))


def test_no_step_is_round_to_nearest_and_no_group_gets_worse():
    near, leaf = run(rtn(FORMAT)), run(hqq(FORMAT))
    jax.tree.map(np.testing.assert_array_equal, run(hqq(FORMAT, steps=0)), near)
    off = [(np.abs(np.asarray(q.dense() - LAYER.w)) ** 0.7).reshape(-1, 32) for q in (leaf, near)]
    assert (off[0].sum(1) <= off[1].sum(1) * (1 + 1e-6)).all()


def test_weights_on_the_grid_come_back_exactly():
    codes = np.random.default_rng(0).integers(0, 8, (8, 64))
    codes[:, ::32], codes[:, 1::32] = 0, 7  # the range of each group
    on_grid = jnp.asarray((codes - 2.5) * 0.125, jnp.float32)
    np.testing.assert_array_equal(run(hqq(FORMAT), on_grid).dense(), on_grid)


def test_one_program_for_weights_of_one_shape():
    params = {"a": LAYER.w, "b": LAYER.w[::-1]}
    small = jc.weights.compress(params, hqq(FORMAT), axes=-1)
    assert compiled(lambda: jc.weights.compress(params, hqq(FORMAT), axes=-1)) == 0
    np.testing.assert_array_equal(small["b"].dense()[::-1], run(hqq(FORMAT)).dense())


def test_integer_zeros_are_refused():
    with pytest.raises(UnsupportedInput, match="real numbers, got zero='uint8'"):
        hqq(jc.formats.UINT3_G32)
    with pytest.raises(UnsupportedInput, match="norm"):
        hqq(FORMAT, norm=2.0)
