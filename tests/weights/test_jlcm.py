"""Codebooks for outputs of one kind each, learned with the codes: what each part adds."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.base import UnsupportedInput
from jaxcomp.formats import INT3
from jaxcomp.weights import gptq, jlcm, rtn
from jaxcomp.weights.jlcm import Fit, codebooks, move, value
from tests.checks import check_leaf, check_lift
from tests.weights.rounding_cases import compiled, layer

rng = np.random.default_rng(0)


def mixed(out, size):
    """A third of the outputs normal, a third heavy-tailed, a third uniform, in no order."""
    third = (out // 3, size)
    kinds = (rng.standard_normal(third), rng.standard_t(3, third), rng.uniform(-1, 1, third))
    w = rng.permutation(np.concatenate(kinds)) * np.exp(0.3 * rng.standard_normal((out, 1)))
    return jnp.asarray(w, jnp.float32)


LAYER = layer(96, 64, 400)._replace(w=mixed(96, 64))


def run(method, case=LAYER):
    return method.compress(case.w, case.statistics, (-1,))


@pytest.mark.usefixtures("quick")
def test_each_part_lowers_the_error_of_the_output():
    methods = {
        "rtn": rtn(INT3, clip=True),
        "gptq": gptq(INT3, clip=True),
        "one codebook": jlcm(3, classes=1, rounds=0),
        "grouped": jlcm(3, rounds=0),
        "one codebook, joint": jlcm(3, classes=1),
        "joint": jlcm(3),
    }
    leaves = {name: run(method) for name, method in methods.items()}
    off = {name: LAYER.objective(leaf) for name, leaf in leaves.items()}
    assert off["one codebook"] < 0.6 * off["rtn"]
    assert off["grouped"] < 0.85 * off["one codebook"]
    assert off["joint"] < 0.5 * off["grouped"]
    assert off["joint"] < 0.85 * off["one codebook, joint"]
    assert off["joint"] < 0.5 * off["gptq"]
    table = 8 * 2
    assert leaves["one codebook"].nbytes == leaves["rtn"].nbytes + table
    assert leaves["joint"].nbytes == leaves["rtn"].nbytes + 4 * table + 96  # a byte per output
    assert leaves["joint"].describe() == "codebook 3 bits of 1, of 4 tables"
    check_leaf(leaves["joint"])


def test_no_round_is_worse_than_those_before():
    damping = 0.01
    mean = np.diagonal(LAYER.statistics["moment"]).mean()

    def error(leaf):
        off = np.asarray(leaf.dense(), np.float64) - np.asarray(LAYER.w)
        return LAYER.objective(leaf) + damping * mean * (off**2).sum()

    errors = [error(run(jlcm(3, rounds=rounds, damping=damping))) for rounds in (0, 1, 2, 5, 20)]
    assert all(b <= a * 1.0001 for a, b in itertools.pairwise(errors))
    assert errors[3] < 0.95 * errors[1]  # later rounds, of neighbours, add to the first


def test_outputs_on_their_codebooks_come_back_exactly():
    tables = np.array([[-1, -0.5, 0, 0.25, 0.375, 0.5, 0.625, 0.75], np.linspace(-1, 0.75, 8)])
    choices = rng.integers(0, 2, 24)
    codes = rng.integers(0, 8, (24, 64))
    codes[:, 0] = 0  # the largest magnitude, in every output
    scales = 2.0 ** rng.integers(-2, 3, 24) * rng.choice([1, 1.25, 1.0078125], 24)
    w = (scales[:, None] * tables[choices[:, None], codes]).astype(np.float32)
    leaf = run(jlcm(3, classes=2), LAYER._replace(w=jnp.asarray(w)))
    np.testing.assert_array_equal(leaf.dense(), w)
    assert abs(np.corrcoef(np.asarray(leaf.choices)[:, 0], choices)[0, 1]) == pytest.approx(1)


def test_error_falls_with_every_bit():
    errors = [LAYER.objective(run(jlcm(bits))) for bits in (2, 3)]
    assert errors[1] < 0.4 * errors[0]


def test_first_codebooks_are_the_best_of_all():
    u = np.round(rng.standard_normal((9, 2)), 2).astype(np.float32)
    weight = rng.uniform(0.5, 2, (9, 2)).astype(np.float32)
    tables = codebooks(*map(jnp.asarray, (u, weight, np.array([1, 0]))), levels=3, classes=2)

    def cost(cell):
        u, weight = np.array(cell, np.float64).T
        return (weight * (u - np.average(u, weights=weight)) ** 2).sum()

    for table, output in zip(np.asarray(tables), (1, 0), strict=True):
        pairs = sorted(zip(u[:, output].tolist(), weight[:, output].tolist(), strict=True))
        cuts = itertools.combinations(range(1, 9), 2)
        least = min(cost(pairs[:i]) + cost(pairs[i:j]) + cost(pairs[j:]) for i, j in cuts)
        apart = (u[:, output, None] - table) ** 2
        assert (weight[:, output] * apart.min(1)).sum() == pytest.approx(least, rel=1e-3)


def test_codes_move_to_the_best_neighbour_of_each_input_in_turn():
    """Beside a plain search that tries the error of the three codes."""
    size, out = 6, 4
    x = rng.standard_normal((20, size))
    h = x.T @ x
    w = rng.standard_normal((size, out))
    tables = np.sort(rng.standard_normal((2, 8)), 1)
    scales, choices = rng.uniform(0.5, 2, out), np.array([0, 1, 1, 0])
    codes = rng.integers(0, 8, (size, out))
    fit = Fit(*map(jnp.asarray, (tables, choices, scales, codes)))
    pull = h / np.diagonal(h)[:, None] * (1 - np.eye(size))
    moved = move(jnp.asarray(w), jnp.asarray(pull), fit, 1)

    def error(o, column):
        off = scales[o] * tables[choices[o]][column] - w[:, o]
        return off @ h @ off

    expected = codes.copy()
    for o, i in itertools.product(range(out), range(size)):
        tried = [expected[:, o].copy() for _ in range(3)]
        for column, by in zip(tried, (-1, 0, 1), strict=True):
            column[i] = np.clip(column[i] + by, 0, 7)
        errors = [error(o, column) for column in tried]
        expected[:, o] = tried[np.argmin(errors)]
    np.testing.assert_array_equal(moved.codes, expected)
    assert (expected != codes).any() and np.abs(expected - codes).max() == 1
    np.testing.assert_allclose(
        value(moved), np.take_along_axis((tables[choices] * scales[:, None]).T, expected, 0), 1e-5
    )


@pytest.mark.usefixtures("quick")
def test_scanned_layers_have_codebooks_of_their_own_and_compile_once():
    params = {"w": jnp.stack([LAYER.w.T, mixed(96, 64).T])}

    def model(p, x):
        return jax.lax.scan(lambda c, w: (c, x @ w), 0.0, p["w"])[1]

    stats = jc.observe(model, params, [LAYER.x])
    small = jc.weights.compress(params, jlcm(3), stats=stats)
    near = jc.weights.compress(params, rtn(INT3, clip=True), stats=stats)
    for k in range(2):
        case = LAYER._replace(w=params["w"][k].T)
        off = [case.objective(leaf["w"].dense()[k].T) for leaf in (small, near)]
        assert off[0] < 0.3 * off[1]
    assert not check_lift(model, small, LAYER.x[:4], atol=1e-3).materialised
    again = jlcm(3)
    assert compiled(lambda: jc.weights.compress(params, again, stats=stats)) == 0


def test_no_output_is_lost_where_weights_or_inputs_are_zero():
    w = LAYER.w.at[3].set(0)
    moment = LAYER.statistics["moment"].at[5].set(0).at[:, 5].set(0)
    leaf = run(jlcm(3), LAYER._replace(w=w, statistics={**LAYER.statistics, "moment": moment}))
    near = np.asarray(leaf.dense())
    assert np.isfinite(near).all() and (near[3] == 0).all()
    assert np.corrcoef(near[:, 5], w[:, 5])[0, 1] > 0.9


def test_bad_numbers_are_refused():
    with pytest.raises(UnsupportedInput, match="bits from 1 to 8"):
        jlcm(9)
    with pytest.raises(UnsupportedInput, match="classes from 1 to 256, .* got 0"):
        jlcm(3, classes=0)


def test_arrays_are_of_32_bits_where_64_are_the_default():
    case = layer(16, 24, 40)
    with jax.enable_x64(True):
        made = jax.eval_shape(lambda w, s: jlcm(3).compress(w, s, (-1,)), case.w, case.statistics)
    assert made.dtype == jnp.float32 and made.shape == (16, 24)
