import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxcomp as jc
from jaxcomp.base import UnsupportedInput
from jaxcomp.formats.format import Format
from jaxcomp.weights import gptq, rtn
from jaxcomp.weights.gptq import Damped
from tests.weights.rounding_cases import compiled, layer

INT4_G12 = jc.formats.INT4._replace(group=12)
INT3_G24 = jc.formats.INT3._replace(group=24)
UINT3_G16 = jc.formats.UINT3._replace(group=16, pad=True)
TABLE = Format(2, group=8, table=(1.0, -1.0, 0.25, -0.25))
NESTED = jc.formats.UINT3._replace(group=16, scale=Format(6, group=-1, zero="bfloat16"), pad=True)
LAYER = layer(40, 72, 400)  # eight devices share its rows


def run(method, case=LAYER):
    return method.compress(case.w, case.statistics, (-1,))


# The paper's algorithm in float64, column by column, with an inverse: nothing is shared with ours.


def to_bfloat16(x):
    return np.asarray(x, np.float32).astype(ml_dtypes.bfloat16).astype(np.float64)


def grid_of(w, format):
    """(levels, scale, zero) of one group of each row: w f64[out, group]."""
    if format.table is not None:
        return np.array(format.table), to_bfloat16(np.abs(w).max(1) / max(format.table)), 0
    low, high = np.minimum(w.min(1), 0), np.maximum(w.max(1), 0)
    if format.zero is None:
        half = 1 << (format.bits - 1)
        return np.arange(-half, half), to_bfloat16(np.abs(w).max(1) / (half - 1)), 0
    scale = (high - low) / ((1 << format.bits) - 1)
    return np.arange(1 << format.bits), to_bfloat16(scale), np.round(-low / scale)


def oracle(w, h, format, order, damping=0.01):
    w, h = np.asarray(w, np.float64).copy(), np.asarray(h, np.float64).copy()
    size = w.shape[1]
    h += np.eye(size) * damping * np.diag(h).mean()
    group = size if format.group == -1 else format.group
    groups = [np.arange(i, min(i + group, size)) for i in range(0, size, group)]
    falling = np.argsort(-np.diag(h), kind="stable")
    turn = np.arange(size)
    if order == "activation":
        turn = falling
    if order == "group":
        ranked = sorted(groups, key=lambda g: -np.diag(h)[g].max())
        turn = np.concatenate([g[np.argsort(-np.diag(h)[g], kind="stable")] for g in ranked])
    upper = np.linalg.cholesky(np.linalg.inv(h[np.ix_(turn, turn)])).T
    grids, q = {}, np.zeros_like(w)
    if order == "activation" or format.group == -1:
        grids = {i: grid_of(w[:, g], format) for i, g in enumerate(groups)}
    for k, column in enumerate(turn):
        mine = column // group
        if mine not in grids:
            grids[mine] = grid_of(w[:, groups[mine]], format)
        values, scale, zero = grids[mine]
        near = np.abs((w[:, column] / scale + zero)[:, None] - values).argmin(1)
        q[:, column] = (values[near] - zero) * scale
        error = (w[:, column] - q[:, column]) / upper[k, k]
        w[:, turn[k + 1 :]] -= np.outer(error, upper[k, k + 1 :])
    return q


@pytest.mark.parametrize(
    ("format", "order", "block"),
    [
        (INT4_G12, "none", 128),  # many groups in a block
        (INT3_G24, "none", 16),  # a group longer than a block, that the block does not divide
        (UINT3_G16, "none", 48),  # a last group that is filled up, blocks that are filled up
        (UINT3_G16, "activation", 32),
        (UINT3_G16, "group", 32),
        (TABLE, "group", 128),
        (jc.formats.INT2, "activation", 20),  # a whole row
    ],
)
def test_the_objective_is_that_of_the_papers_algorithm_in_float64(format, order, block):
    expected = oracle(LAYER.w, LAYER.statistics["moment"], format, order)
    leaf = run(gptq(format, order=order, block=block))
    assert LAYER.objective(leaf) == pytest.approx(LAYER.objective(expected), rel=1e-3)
    moves_further(leaf, run(rtn(format)))
    close = np.isclose(np.asarray(leaf.dense()), expected, atol=1e-3)
    assert close.mean() > 0.98  # the rest lay between two levels
    assert leaf.nbytes == run(rtn(format)).nbytes == sum(part.nbytes for part in leaf.parts)


def test_columns_are_rounded_by_falling_activation_unless_asked_otherwise():
    default, plain = run(gptq(UINT3_G16, block=32)), run(gptq(UINT3_G16, order="none", block=48))
    assert LAYER.objective(default) < 0.8 * LAYER.objective(plain)


def moves_further(leaf, near):
    """Outputs are closer than those of rounded weights, the weights themselves are not."""
    assert LAYER.objective(leaf) < 0.8 * LAYER.objective(near)
    off = [float(jnp.square(q.dense() - LAYER.w).sum()) for q in (leaf, near)]
    assert off[0] > 1.02 * off[1]


@pytest.mark.parametrize(
    ("format", "order"), [(NESTED, "none"), (jc.formats.UINT8._replace(group=None), "group")]
)
def test_grids_of_all_groups_are_fitted_before(format, order):
    moves_further(run(gptq(format, order=order, clip=True)), run(rtn(format)))


@pytest.mark.parametrize(
    ("format", "order", "block"),
    [(TABLE, "group", 128), (UINT3_G16, "none", 48), (jc.formats.INT8, "activation", 128)],
)
def test_weights_on_the_grid_come_back_exactly(format, order, block):
    on_grid = LAYER
    for _ in range(4):  # until every group's range is what its grid spans
        on_grid = LAYER._replace(w=run(rtn(format), on_grid).dense())
    leaf = run(gptq(format, order=order, block=block), on_grid)
    np.testing.assert_array_equal(leaf.dense(), on_grid.w)


@pytest.mark.parametrize("moment", [jnp.eye(72), jnp.zeros((72, 72))], ids=["identity", "nothing"])
@pytest.mark.parametrize("order", ["activation", "group"])
def test_inputs_that_are_independent_or_absent_leave_round_to_nearest(moment, order):
    case = LAYER._replace(statistics={**LAYER.statistics, "moment": moment})
    leaf, near = run(gptq(UINT3_G16, order=order, block=32), case), run(rtn(UINT3_G16))
    jax.tree.map(np.testing.assert_array_equal, leaf, near)


def singular():
    """Fewer vectors than inputs; inputs that are 0, or copies, or constant multiples."""
    x = layer(1, 72, 30).x
    x[:, 5:9] = 0
    x[:, 40:44] = -2 * x[:, 50:54]
    x[:, 60] = x[:, 61]
    statistics = {"moment": jnp.asarray(x.T @ x), "count": jnp.float32(30)}
    return LAYER._replace(x=x, statistics=statistics)


def test_a_singular_moment_is_rounded_well():
    case = singular()
    leaf = run(gptq(UINT3_G16, order="activation", block=32), case)
    assert np.isfinite(leaf.dense()).all()
    assert case.objective(leaf) < 0.5 * case.objective(run(rtn(UINT3_G16), case))
    # What never saw an input is rounded to nearest in its group, not made 0.
    assert np.abs(np.asarray(leaf.dense() - case.w)[:, 5:9]).max() < 0.5


def test_more_damping_is_said_and_written_down():
    report, case = [], singular()
    with pytest.warns(Damped, match=r"\(40, 72\).*damping 0; it was damped by 0\.01 "):
        leaf = run(gptq(INT4_G12, damping=0.0, report=report), case)
    assert [(r.shape, r.asked) for r in report] == [((40, 72), 0.0)]
    assert report[0].damping == pytest.approx(0.01)
    jax.tree.map(np.testing.assert_array_equal, leaf, run(gptq(INT4_G12), case))


def test_a_moment_that_cannot_be_factored_is_left_out_aloud():
    moment = LAYER.statistics["moment"].at[3, 4].set(jnp.nan).at[4, 3].set(jnp.nan)
    case = LAYER._replace(statistics={**LAYER.statistics, "moment": moment})
    report = []
    with pytest.warns(Damped, match="left out"):
        leaf = run(gptq(INT4_G12, report=report), case)
    assert report[0].damping == np.inf
    jax.tree.map(np.testing.assert_array_equal, leaf, run(rtn(INT4_G12)))


def test_rows_on_eight_devices_are_those_of_one():
    mesh = Mesh(np.array(jax.devices("cpu")[:8]), ("rows",))
    rows, everywhere = (NamedSharding(mesh, PartitionSpec(*p)) for p in (("rows",), ()))
    method = gptq(UINT3_G16, order="group", block=32)
    one = jax.jit(lambda w, statistics: method.compress(w, statistics, (-1,)))
    moment = jax.device_put(LAYER.statistics, everywhere)
    leaf = one(jax.device_put(LAYER.w, rows), moment)
    assert leaf.codes.sharding.is_equivalent_to(rows, 2)
    np.testing.assert_allclose(leaf.dense(), run(method).dense(), atol=1e-6)


def test_compress_rounds_what_observe_saw_with_one_program_per_shape():
    w = {name: layer(40, 72, 1, seed=i).w.T for i, name in enumerate(("a", "b"))}  # [in, out]

    def model(w, x):
        return jnp.tanh(x @ w["a"]) + x @ w["b"]

    stats = jc.observe(model, w, [LAYER.x])
    report = []
    small = jc.weights.compress(w, gptq(INT4_G12, report=report), stats=stats)
    near = jc.weights.compress(w, rtn(INT4_G12), stats=stats)
    assert len(report) == 2 and all(r.damping == r.asked for r in report)
    for name in w:
        case = LAYER._replace(w=w[name].T)
        off = [case.objective(leaf[name].dense().T) for leaf in (small, near)]
        assert off[0] < 0.6 * off[1]
    method, other = gptq(INT4_G12), layer(40, 72, 100, seed=7)
    arguments = (other.w.T, other.statistics, (-2,))
    assert compiled(method.compress, *arguments) == 0
    assert compiled(gptq(INT4_G12._replace(group=8)).compress, *arguments) > 0


def test_an_order_that_is_none_is_refused():
    with pytest.raises(UnsupportedInput, match="'none', 'activation', 'group'"):
        gptq(INT4_G12, order="act")
    with pytest.raises(UnsupportedInput, match="damping >= 0"):
        gptq(INT4_G12, damping=-1.0)
