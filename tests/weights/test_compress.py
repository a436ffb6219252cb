"""compress: which leaves, along which axes, with how much memory, and what it refuses."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.base import Transform
from jaxcomp.lift.statistics import both, max_magnitude, mean_magnitude, second_moment
from jaxcomp.weights.compress import compress

INT4 = jc.formats.INT4._replace(group=16)
RTN = jc.weights.rtn(INT4)


def _normal(*shape, seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng([seed, *shape]).normal(size=shape), dtype)


PARAMS = {
    "embedding": _normal(12, 32),
    "layers": {"kernel": _normal(3, 32, 32), "bias": _normal(3, 32)},
    "head": _normal(8, 32),
    "steps": jnp.arange(3),
    "phase": jnp.ones((4, 4), jnp.complex64),
}
TOKENS = jnp.arange(12).reshape(3, 4)


def _model(p, tokens):
    def layer(x, each):
        return jnp.tanh(x @ each["kernel"] + each["bias"]), None

    x, _ = jax.lax.scan(layer, p["embedding"][tokens], p["layers"])
    return x @ p["head"].T


STATS = jc.observe(_model, PARAMS, [TOKENS])


def test_what_was_multiplied_is_compressed_along_what_was_summed_over():
    small = compress(PARAMS, RTN, stats=STATS)
    assert small["layers"]["kernel"].layout.axes == (-2,) and small["head"].layout.axes == (-1,)
    for path in ("embedding", "steps", "phase"):
        assert small[path] is PARAMS[path]
    assert small["layers"]["bias"] is PARAMS["layers"]["bias"]
    # Each matrix of the stack is what it would be alone, and packed codes are all that is there.
    kernel, alone = small["layers"]["kernel"], jc.formats.quantize
    for i in range(3):
        one = alone(PARAMS["layers"]["kernel"][i], INT4)
        chex.assert_trees_all_equal(jax.tree.map(lambda x, i=i: x[i], kernel), one)
    assert kernel.nbytes == 3 * (32 * 32 // 2 + 2 * 2 * 32) == jc.tree.nbytes(kernel)
    dense = jc.tree.map_where(lambda _, w: jc.formats.dense(w), small, lambda _, w: True)
    np.testing.assert_allclose(
        jc.lift(_model)(small, TOKENS), jax.jit(_model)(dense, TOKENS), rtol=1e-4, atol=1e-5
    )


def test_weights_of_one_input_and_of_integers_are_compressed_as_all_others():
    def fn(p, time, counts):
        return jnp.tanh(time @ p["one"] + counts @ p["counts"]) @ p["last"]

    params = {"one": _normal(1, 32), "counts": _normal(5, 32), "last": _normal(32, 4)}
    batch = _normal(6, 1), jnp.arange(30).reshape(6, 5)
    stats = jc.observe(fn, params, [batch])
    small = compress(params, jc.weights.gptq(jc.formats.INT8), stats=stats)
    assert all(jc.tree.is_compressed(leaf) for leaf in small.values())
    off = jc.lift(fn, strict=True)(small, *batch) - fn(params, *batch)
    assert 0 < jnp.abs(off).max() < 0.5
    with pytest.raises(jc.UnsupportedInput, match="one: group=16 must divide the packed axis of 1"):
        compress(params, RTN, stats=stats, where=lambda path, _: path == "one")


def test_a_method_may_differ_by_leaf_and_leave_some():
    def method(path, leaf):
        return None if path == "head" else jc.weights.rtn(jc.formats.INT8)

    small = compress(PARAMS, method, stats=STATS)
    assert small["head"] is PARAMS["head"] and small["layers"]["kernel"].format.bits == 8


def test_compressed_leaves_are_left_alone():
    small = compress(PARAMS, RTN, stats=STATS, where=lambda path, _: path == "head")
    rest = compress(small, jc.weights.rtn(jc.formats.INT8), stats=STATS)
    assert rest["head"] is small["head"] and rest["layers"]["kernel"].format.bits == 8


def test_rows_that_are_only_looked_up_are_packed_along_themselves():
    small = compress(PARAMS, RTN, stats=STATS, where=lambda path, _: path == "embedding")
    assert small["embedding"].layout.axes == (-1,)
    report = jc.lift(_model).report(small, TOKENS)
    assert not report.materialised


def test_without_stats_axes_say_what_is_summed_over():
    small = compress(PARAMS, RTN, axes=lambda path, w: -1 if path == "head" else -2, where=_kernels)
    chex.assert_trees_all_equal(small, compress(PARAMS, RTN, stats=STATS))
    shared = compress({"w": _normal(2, 2, 4, 32)}, RTN, axes=(-1,))["w"]  # stacked twice
    assert shared.shape == (2, 2, 4, 32) and shared.codes.shape == (2, 2, 4, 16)


def _kernels(path, leaf):
    return path in ("head", "layers/kernel")


class Block(NamedTuple):
    kernel: Any
    extra: Any


def test_other_leaves_of_other_trees_pass_through():
    marker = object()
    tree = [Block(_normal(32, 8), marker), Block(_normal(32, 8), None), jax.random.key(0), 3, "x"]
    small = compress(tree, RTN, axes=-2)
    assert small[0].extra is marker and small[1].extra is None and small[2:] == tree[2:]
    assert small[0].kernel.shape == (32, 8) and isinstance(small[0].kernel, jc.formats.QTensor)


@pytest.mark.parametrize("need", [second_moment, max_magnitude, both(max_magnitude, second_moment)])
def test_a_method_gets_the_statistics_that_it_names(need):
    got = {}

    def keep(w, statistics, axes):
        got[w.shape] = statistics
        return RTN.compress(w, statistics, axes)

    every = jc.observe(
        _model, PARAMS, [TOKENS], statistic=both(mean_magnitude, second_moment, max_magnitude)
    )
    compress(PARAMS, Transform(keep, need, "mine"), stats=every)
    alone = jc.observe(_model, PARAMS, [TOKENS], statistic=need)["head"].state
    chex.assert_trees_all_close(got[8, 32], alone, rtol=1e-5, atol=1e-5)
    if need.name != second_moment.name:
        with pytest.raises(jc.UnsupportedInput, match=r"head|layers/kernel.*statistic="):
            compress(PARAMS, Transform(keep, need, "mine"), stats=STATS)


@pytest.mark.parametrize("donate", [True, False])
def test_memory_is_that_of_a_few_leaves(donate):
    stack = {str(i): _normal(128, 128, seed=i) for i in range(8)}
    stack["tied"] = stack["7"]
    largest = 128 * 128 * 4
    live = lambda: sum(x.nbytes for x in jax.live_arrays())  # noqa: E731
    before, most = live(), 0

    def watched(w, statistics, axes):
        nonlocal most
        made = RTN.compress(w, statistics, axes)
        most = max(most, live() - before)
        return made

    small = compress(stack, Transform(watched, None, "watched"), axes=-2, donate=donate)
    most = max(most, live() - before)
    if not donate:
        assert most <= jc.tree.nbytes(small) + 3 * largest
        return
    assert most <= 3 * largest
    assert live() - before <= jc.tree.nbytes(small) - 8 * largest
    assert stack["0"].is_deleted() and not small["tied"].codes.is_deleted()
    # What a compiled method holds beside its arguments counts as well.
    from jaxcomp.weights.rtn import _round

    shape = jax.ShapeDtypeStruct((128, 128), jnp.float32)
    needs = _round.lower(shape, INT4, False, 2.4, jnp.float32).compile().memory_analysis()
    assert needs.temp_size_in_bytes + needs.output_size_in_bytes <= 2 * largest


def test_a_second_weight_of_a_shape_compiles_nothing():
    traced = chex.assert_max_traces(lambda w: jc.formats.quantize(w, INT4), n=1)
    chex.clear_trace_counter()
    quantize = jax.jit(traced)
    method = Transform(lambda w, statistics, axes: quantize(w), None, "mine")
    small = compress({"a": _normal(32, 8), "b": _normal(3, 32, 8)}, method, axes=-2)
    assert small["b"].codes.shape == (3, 16, 8)


def test_a_format_stands_for_rounding_to_nearest():
    head = {"head": PARAMS["head"]}
    expected = compress(head, RTN, axes=-1)
    chex.assert_trees_all_equal(compress(head, INT4, axes=-1), expected)
    chex.assert_trees_all_equal(compress(head, lambda path, leaf: INT4, axes=-1), expected)
    for known in ({"axes": -1}, {"stats": STATS}):
        with pytest.raises(
            jc.UnsupportedInput, match="head are compressed already; pass the dense"
        ):
            compress(expected, INT4, **known)


@pytest.mark.parametrize(
    "change, method, options, says",
    [
        ({}, "int4", {}, r"expected a Transform, a Format, .* got 'int4'; .* not called"),
        ({}, jc.weights.rtn, {}, r"expected a Transform, .* got <function rtn.* not called"),
        ({}, lambda path, leaf: "int4", {}, "expected a Transform, .* got 'int4'"),
        ({}, RTN, {"stats": {"other": STATS["head"]}}, "stats of these params, .* but other;"),
        ({"head": _normal(8, 32).at[3, 4].set(jnp.nan)}, RTN, {}, "1 of 256 not finite in head"),
        ({"head": _normal(8, 32).at[3, 4].set(jnp.inf)}, RTN, {}, "1 of 256 not finite in head"),
        ({"head": _normal(8, 16)}, RTN, {}, r"head: .* that was observed, \(8, 32\)"),
        ({}, jc.weights.rtn(INT4._replace(group=24)), {}, "(head|kernel): group=24 must divide"),
        ({}, RTN, {"where": lambda path, _: False}, "got none; the matrices are: embedding"),
        ({"new": _normal(4, 4)}, RTN, {"where": lambda path, _: path == "new"}, "expected new"),
        ({}, RTN, {"where": lambda path, _: "bias" in path}, "layers/bias: .* got add"),
        ({}, RTN, {"stats": None}, "expected stats or axes"),
        ({}, RTN, {"stats": None, "axes": "in"}, "embedding: expected axes as an int .* got 'in'"),
        ({}, RTN, {"stats": None, "axes": lambda path: -2}, "expected axes, .* not take both"),
        ({}, RTN, {"stats": [STATS]}, "expected stats as jc.observe returns them, .* got a list"),
        ({}, RTN, {"where": "head"}, "expected where, a function .* got 'head'; pass"),
        ({}, RTN, {"where": lambda path: True}, "expected where, .* not take both"),
        (
            {"none": jnp.zeros((0, 32, 8))},
            RTN,
            {"stats": None, "axes": -2, "where": lambda path, _: path == "none"},
            r"none: expected a weight with values, got shape \(0, 32, 8\)",
        ),
        ({}, RTN, {"stats": None, "axes": -4}, "expected axes of an array"),
    ],
)
def test_what_cannot_be_compressed_is_refused(change, method, options, says, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as outside of tests
    with pytest.raises(jc.UnsupportedInput, match=says):
        compress({**PARAMS, **change}, method, **{"stats": STATS, **options})


@pytest.mark.parametrize("wrong", [jnp.nan, jnp.inf])
def test_statistics_that_are_not_finite_are_refused_and_never_used(wrong):
    head = STATS["head"]
    state = {**head.state, "moment": head.state["moment"].at[0, 1].set(wrong)}
    stats = {**STATS, "head": head._replace(state=state)}
    for method in (jc.weights.eora(RTN, 2), jc.weights.gptq(INT4)):
        with pytest.raises(jc.UnsupportedInput, match="head: expected finite .* without NaN"):
            compress(PARAMS, method, stats=stats, where=lambda path, _: path == "head")
    compress(PARAMS, RTN, stats=stats)  # what needs no statistics does not look at them


@pytest.mark.parametrize("need", [second_moment, max_magnitude])
def test_matrices_that_no_batch_reached_are_refused_and_named(need):
    params = {"experts": _normal(4, 32, 8), "branch": _normal(32, 8)}

    def fn(p, x):
        routed = jax.lax.ragged_dot(x, p["experts"], jnp.array([3, 0, 3, 0], jnp.int32))
        return jax.lax.cond(x[0, 0] > 1e9, lambda: x @ p["branch"], lambda: routed)

    stats = jc.observe(fn, params, [_normal(6, 32)], statistic=need)
    method = Transform(RTN.compress, need, "mine")
    for path, says in [
        ("experts", r"experts: .* for mine, .* zeros for 2 of 4 matrices, \[\[1\], \[3\]\]; obs"),
        ("branch", "branch: .* got none but zeros; observe batches that reach all"),
    ]:
        with pytest.raises(jc.UnsupportedInput, match=says):
            compress(params, method, stats=stats, where=lambda name, _, path=path: name == path)
    small = compress(params, RTN, stats=stats)
    assert all(map(jc.tree.is_compressed, small.values()))
