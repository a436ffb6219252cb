"""Weights stay packed inside loops, branches, jit, remat and functions with rules of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxcomp as jc
from tests.lift.cases import QUICK, check_law, dense, normal, rows, scaled

X = normal(3, 8)
LAYERS = scaled(4, 8, 8)


def _scan(ws, x, **options):
    return lax.scan(lambda x, w: (jnp.tanh(x @ w), x[0, 0]), x, ws, **options)


def _steps(ws, x, pick):
    return lax.fori_loop(0, 4, lambda i, x: jnp.tanh(x @ pick(ws, i)), x)


@jax.checkpoint
def _layer(x, w):
    return jnp.tanh(x @ w)


def _by_weight(kept):
    """A loop that carries the weight; `kept` says whether it hands it on as it got it."""

    def fn(ws, x):
        def step(carry, _):
            w, x = carry
            return (w if kept else w * 1, jnp.tanh(x @ w)), None

        return lax.scan(step, (ws[0], x), length=3)[0][1]

    return fn


def _while(ws, x):
    def body(carry):
        i, ws, x = carry
        return i + 1, ws, jnp.tanh(x @ ws[i])

    return lax.while_loop(lambda c: (c[0] < 4) & ((c[2] @ c[1][0]).sum() < 1e9), body, (0, ws, x))[
        2
    ]


LOOPS = {
    "scan": _scan,
    "scan backwards, unrolled": lambda ws, x: _scan(ws, x, reverse=True, unroll=2),
    "scan of slices": lambda ws, x: _scan(ws[1:3], x),
    "scan of transposed": lambda ws, x: _scan(ws.swapaxes(1, 2).swapaxes(1, 2), x),
    "scan of a repeated weight": lambda ws, x: _scan(jnp.broadcast_to(ws[0], (5, 8, 8)), x),
    "scan of one layer": lambda ws, x: (_scan(ws[:1], x), _scan(ws[0][None], x)),
    "scan in scan": lambda ws, x: lax.scan(
        lambda x, ws: (_scan(ws, x)[0], None), x, ws.reshape(2, 2, 8, 8)
    ),
    "scan with remat": lambda ws, x: lax.scan(lambda x, w: (_layer(x, w), None), x, ws),
    "map": lambda ws, x: lax.map(lambda w: x @ w, ws),
    "index": lambda ws, x: _steps(ws, x, lambda ws, i: ws[i]),
    "take": lambda ws, x: _steps(ws, x, lambda ws, i: jnp.take(ws, i, 0)),
    "dynamic_index": lambda ws, x: _steps(
        ws, x, lambda ws, i: lax.dynamic_index_in_dim(ws, i, 0, keepdims=False)
    ),
    "two indices": lambda ws, x: _steps(
        ws.reshape(2, 2, 8, 8), x, lambda ws, i: ws.at[i // 2, i % 2].get(mode="clip")
    ),
    "unrolled": lambda ws, x: _layer(_layer(x, ws[0]), ws[-1]),
    "carried": _by_weight(True),
    "while": _while,
    "cond": lambda ws, x: lax.cond(x[0, 0] > 0, lambda: x @ ws[0], lambda: x @ ws[1]),
    "switch": lambda ws, x: lax.switch(
        jnp.int32(2), [lambda x, w, i=i: x @ w[i] for i in range(4)], x, ws
    ),
    "jit": lambda ws, x: jax.jit(lambda w: (jax.jit(jnp.matmul)(x, w[2]), x))(ws),
    "vmap": lambda ws, x: jax.vmap(lambda x: _scan(ws, x[None])[0])(x),
    "vmap of weights": lambda ws, x: jax.vmap(
        lambda w: lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, length=2)[0]
    )(ws),
}


@pytest.mark.parametrize("name", LOOPS)
def test_loops_and_branches_keep_weights_packed(name):
    found = check_law(LOOPS[name], LAYERS, X)
    assert {row.ran for row in found.rows} == {"scaled on cpu"}
    assert {row.nbytes for row in found.rows} == {LAYERS.nbytes}  # of the whole, not of a layer


def test_layers_that_share_a_scale_are_scanned():
    check_law(_scan, scaled(4, 8, 8, shared=True), X)
    check_law(_scan, scaled(1, 8, 8, shared=True), X)


@pytest.mark.parametrize("axes", [(-3, -2), (-3, -1)])
def test_a_packed_axis_of_size_one_is_scanned(axes):
    leaf = scaled(1, 8, 8, axes=axes)
    found = check_law(_scan, leaf, X)
    assert {row.ran for row in found.rows} == {"scaled on cpu"}
    check_law(lambda ws, x: _scan(ws[None, 0], x), leaf, X)


def test_a_loop_that_changes_the_weight_it_carries_needs_it_dense():
    check_law(_by_weight(False), LAYERS, X, materialised=[""])
    check_law(
        lambda w, x: lax.cond(x[0, 0] > 0, lambda: w, lambda: w + 1), LAYERS, X, materialised=[""]
    )


def test_an_index_outside_gives_what_it_gives_on_the_dense_weight():
    def fn(ws, x, i):
        taken = (jnp.take(ws, i, 0), ws[i], ws.at[i].get(mode="clip"))
        return [x @ w for w in taken]

    for i in (2, 4, -4, -5):
        got, expected = jax.jit(
            lambda i: (jc.lift(fn)(LAYERS, X, i), fn(dense(LAYERS), X, i)), compiler_options=QUICK
        )(jnp.int32(i))
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
        assert np.isnan(got[0]).all() == (i not in (2, -4))
    assert set(rows(fn, LAYERS, X, jnp.int32(1)).values()) == {"scaled on cpu"}


@pytest.mark.parametrize("policy", [None, "everything_saveable", "dots_saveable"])
def test_remat_has_the_gradients_of_the_plain_function(policy):
    def fn(w, x):
        layer = jax.checkpoint(
            lambda x: jnp.tanh(x @ w) @ w.T @ w,
            policy=policy and getattr(jax.checkpoint_policies, policy),
        )
        return (layer(x) ** 2).sum()

    w = scaled(8, 8)
    # w.T is summed over the free axis: dense there.
    got = jax.jit(jax.grad(jc.lift(fn), 1))(w, X)
    np.testing.assert_allclose(got, jax.jit(jax.grad(fn, 1))(w.dense(), X), rtol=2e-4, atol=1e-3)


@jax.custom_jvp
def _forward_rule(x, w):
    return x @ w


@_forward_rule.defjvp
def _(primals, tangents):
    (x, w), (dx, dw) = primals, tangents
    return x @ w, 2 * (dx @ w) + 3 * (x @ dw)  # so that one sees whose rule it is


@jax.custom_vjp
def _reverse_rule(x, w):
    return x @ w


_reverse_rule.defvjp(
    lambda x, w: (x @ w, (x, w)), lambda kept, g: (2 * g @ kept[1].T, 3 * kept[0].T @ g)
)


@pytest.mark.parametrize("rule", [_forward_rule, _reverse_rule])
def test_a_rule_of_the_user_is_kept_for_dense_and_packed_arguments(rule):
    def fn(w, x):
        return (jnp.sin(rule(x, w)) ** 2).sum()

    w = scaled(8, 6)
    found = jc.lift(fn).report(w, X)
    assert not found.materialised
    assert {(row.ran, row.operation) for row in found.rows} == {
        ("scaled on cpu", "dot_general"),
        ("dense in its gradient", rule and found.rows[0].operation),
    }
    check_law(fn, w, X)

    def of_scales(scales, x):
        return jc.lift(fn)(type(w)(w.codes, scales, w.dtype, w.packed), x)

    def plain(scales, x):
        return fn((w.codes * scales).astype(jnp.float32), x)

    got, expected = (jax.jit(jax.grad(f, (0, 1)))(w.scales, X) for f in (of_scales, plain))
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    with pytest.raises(jc.MaterialisedLeaf, match="only where it is differentiated"):
        jax.grad(jc.lift(fn, strict=True), 1)(w, X)
    assert jc.lift(fn, strict=True)(w, X)


def test_gradients_of_scanned_scales_are_those_of_the_formula():
    def plain(scales):
        return (_scan(LAYERS.codes * scales, X)[0] ** 2).sum()

    def packed(scales):
        leaf = type(LAYERS)(LAYERS.codes, scales, LAYERS.dtype, LAYERS.packed)
        return (jc.lift(_scan)(leaf, X)[0] ** 2).sum()

    got, expected = (jax.jit(jax.grad(f))(LAYERS.scales) for f in (packed, plain))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
