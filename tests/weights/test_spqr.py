import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.base import UnsupportedInput
from jaxcomp.formats import format as grids
from jaxcomp.formats.format import Format
from jaxcomp.formats.sum import Sum
from jaxcomp.weights import SPQR3, SPQR4, gptq, rtn, spqr
from jaxcomp.weights.spqr import gains
from tests.weights.rounding_cases import compiled, layer

PLAIN = layer(32, 256, 800)
PLANTED = np.random.default_rng(0).random((32, 256)) < 0.008
OUTLIERS = PLAIN._replace(w=jnp.where(PLANTED, 10 * PLAIN.w, PLAIN.w))
UINT3_G16 = jc.formats.UINT3._replace(group=16)


def run(method, case=OUTLIERS):
    return method.compress(case.w, case.statistics, (-1,))


def bits(leaf):
    return 8 * leaf.nbytes / leaf.size


def test_fewer_bits_and_less_error_than_gptq_where_a_few_weights_are_large():
    leaf, other = run(spqr(outliers=0.01)), run(gptq(UINT3_G16, order="activation"))
    # Codes, their scales and zeros, the grids of those; values and gaps of what is apart.
    expected = 3 + (3 + 3) / 16 + 4 * 16 / 256 + (round(2.56) + 256 // 255) * (16 + 8) / 256
    assert bits(leaf) == expected < 4.1 and bits(other) == 3 + (16 + 8) / 16
    assert OUTLIERS.objective(leaf) < 0.7 * OUTLIERS.objective(other)


def test_each_weight_apart_and_each_bit_lowers_the_error():
    off = [OUTLIERS.objective(run(spqr(outliers=o))) for o in (0.0, 0.01, 0.03)]
    assert off[1] < 0.6 * off[0] and off[2] < 0.9 * off[1]
    off = [PLAIN.objective(run(spqr(format), PLAIN)) for format in (SPQR3, SPQR4)]
    assert off[1] < 0.5 * off[0]


def test_scales_on_a_grid_serve_as_well_as_those_of_16_bits():
    nested, plain = run(spqr(outliers=0.0), PLAIN), run(gptq(UINT3_G16, order="activation"), PLAIN)
    assert bits(nested) == 3.625
    assert PLAIN.objective(nested) < 1.1 * PLAIN.objective(plain)


def test_the_weights_apart_are_those_whose_group_gains_most():
    rng = np.random.default_rng(1)
    w, weight = rng.standard_t(3, (5, 3, 16)), rng.random((3, 16))

    def error(w, weight):  # of one group, with the grid that spans it
        low, high = min(w.min(), 0), max(w.max(), 0)
        scale = (high - low) / 7
        near = (np.clip(np.round(w / scale - low / scale), 0, 7) + low / scale) * scale
        return (weight * (near - w) ** 2).sum()

    expected = np.zeros(w.shape)
    for at in np.ndindex(w.shape):
        *group, i = at
        own = weight[group[1]]
        rest = error(np.delete(w[tuple(group)], i), np.delete(own, i))
        expected[at] = error(w[tuple(group)], own) - rest
    found = gains(jnp.asarray(w, jnp.float32), jnp.asarray(weight, jnp.float32), UINT3_G16)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    off = np.asarray(run(spqr(outliers=0.03)).terms[1].dense()) != 0
    large = np.abs(OUTLIERS.w) > 8
    assert off[large].mean() > 0.9 and (off.sum(1) <= round(0.03 * 256)).all()


def test_independent_inputs_and_nothing_apart_is_round_to_nearest_on_that_grid():
    case = PLAIN._replace(statistics={**PLAIN.statistics, "moment": jnp.eye(256)})
    leaf = run(spqr(outliers=0.0), case)
    scales, zeros = (x.dense() for x in (leaf.scales, leaf.zeros))
    _, near = grids.round_to(grids.in_groups(PLAIN.w, SPQR3), scales, zeros, SPQR3)
    np.testing.assert_allclose(leaf.dense(), near.reshape(PLAIN.w.shape), atol=1e-6)
    assert PLAIN.objective(leaf) > 1.5 * PLAIN.objective(run(spqr(outliers=0.0), PLAIN))


@pytest.mark.parametrize("outliers", [0.0, 0.01])
def test_weights_on_the_grid_come_back_exactly(outliers):
    codes = np.random.default_rng(0).integers(0, 8, (32, 256))
    codes[:, ::16], codes[:, 1::16] = 0, 7  # the range of each group
    on_grid = PLAIN._replace(w=jnp.asarray((codes - 2.5) * 0.125, jnp.float32))
    leaf = run(spqr(outliers=outliers), on_grid)
    np.testing.assert_array_equal(leaf.dense(), on_grid.w)


def test_groups_of_zeros_leave_the_others_alone():
    case = PLAIN._replace(w=PLAIN.w.at[:, 32:64].set(0.0).at[3].set(0.0))
    leaf = run(spqr(), case)
    assert case.objective(leaf) < 0.8 * case.objective(run(rtn(UINT3_G16), case))
    np.testing.assert_array_equal(leaf.dense()[3], 0)


def test_stacked_layers_through_observe_and_lift_with_one_program_per_shape():
    stack = jnp.stack([OUTLIERS.w.T, PLAIN.w.T])  # [layers, in, out]

    def model(params, x):
        return jax.lax.scan(lambda total, w: (total + x @ w, None), jnp.zeros(32), params["w"])[0]

    def summed(params, x):
        return model(params, x[0])

    params, x = {"w": stack}, OUTLIERS.x[:1]
    stats = jc.observe(summed, params, [OUTLIERS.x[i : i + 1] for i in range(3)])
    method = spqr(outliers=0.01)
    small = jc.weights.compress(params, method, stats=stats)
    assert isinstance(small["w"], Sum) and small["w"].shape == stack.shape
    dense = small["w"].dense()
    expected = x[0] @ np.asarray(dense.sum(0))
    np.testing.assert_allclose(jax.jit(jc.lift(summed))(small, x), expected, rtol=1e-3, atol=1e-2)
    again = spqr(outliers=0.01)
    assert compiled(lambda: jc.weights.compress(params, again, stats=stats)) == 0


def test_what_it_cannot_use_is_refused():
    with pytest.raises(UnsupportedInput, match="asymmetric"):
        spqr(jc.formats.INT3_G32)
    with pytest.raises(UnsupportedInput, match="outliers"):
        spqr(outliers=0.9)
    with pytest.raises(UnsupportedInput, match="group=16 must divide"):
        run(spqr(), layer(8, 40, 50))
    padded = run(spqr(Format(3, group=16, zero="uint8", pad=True)), layer(8, 40, 50))
    assert padded.shape == (8, 40)
