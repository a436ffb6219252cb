"""Two levels of integers: nothing overflows int8, the expansion is exact, and few bytes serve."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxcomp as jc
from jaxcomp.base import UnsupportedInput
from jaxcomp.formats import dense
from jaxcomp.weights.activation import activation
from jaxcomp.weights.progressive import inner_codes, outer_scale, progressive, to_int8
from jaxcomp.weights.rtn import rtn
from tests.checks import check_leaf
from tests.weights.rounding_cases import compiled

rng = np.random.default_rng(0)
WEIGHTS = {
    "normal": rng.normal(size=(24, 192)).astype(np.float32),  # [out, in]
    "heavy": rng.standard_t(4, size=(24, 192)).astype(np.float32),
}
to_dense = jax.jit(dense)


def made(w, method):
    return method.compress(jnp.asarray(w), None, (-1,))


def error(leaf, w):
    return float(((np.asarray(to_dense(leaf)) - w) ** 2).sum())


FORMAT = jc.formats.UINT4._replace(group=8)


@jax.jit
def integers(w):
    """Of w and of its largest values at 119: codes, scales, zeros, the int8, and its target."""
    largest = jnp.abs(w).max(1, keepdims=True)
    found = []
    for scale in (jnp.where(largest > 0, largest / 119, 1.0), outer_scale(w, FORMAT)):
        u = (w / scale).reshape(len(w), -1, 8)
        codes, scales, zeros = inner_codes(u)
        found.append((codes, scales, zeros, (codes - zeros[..., None]) * scales[..., None], u))
    return found


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-30, 30), st.sampled_from(["tails", "steps", "ends"]))
def test_no_weight_leaves_int8(seed, exponent, kind):
    draw = np.random.default_rng(seed)
    w = draw.standard_t(1.5, (16, 64))
    if kind == "steps":  # ranges of groups near the ends of every step
        w = draw.integers(-119, 120, (16, 64)) + draw.uniform(-0.5, 0.5, (16, 64))
    if kind == "ends":
        w = draw.choice([-1.0, 1.0, 0.0, 0.999], (16, 64))
    w = (w * 2.0**exponent).astype(np.float32)
    for codes, scales, zeros, wide, u in jax.tree.map(np.asarray, integers(w)):
        assert codes.min() >= 0 and codes.max() <= 15 and zeros.min() >= 0 and zeros.max() <= 15
        assert scales.min() >= 1 and scales.max() <= 17
        assert np.abs(wide).max() <= 127
        # Half a step of rounding; beyond the ends half a step for the zero, 7.5 for the scale.
        assert (np.abs(wide - u) <= scales[..., None] / 2 + 8).all()


@pytest.mark.parametrize("kind", WEIGHTS)
def test_close_to_direct_groups_and_better_than_what_the_same_bytes_buy(kind):
    w = WEIGHTS[kind]
    leaf, direct = made(w, progressive(32)), made(w, rtn(jc.formats.UINT4_G32))
    wider = made(w, rtn(jc.formats.UINT4._replace(group=48)))
    groups = 192 // 32
    assert leaf.nbytes == 24 * (192 // 2 + groups + groups // 2 + 2) + 2
    assert leaf.nbytes < wider.nbytes < direct.nbytes
    assert error(leaf, w) < 1.1 * error(direct, w)
    assert error(leaf, w) < 0.95 * error(wider, w)


def test_the_second_level_is_integers_and_to_int8_is_exact():
    for axes, w in (((-1,), WEIGHTS["heavy"]), ((-2,), WEIGHTS["heavy"].T)):
        leaf = progressive(32).compress(jnp.asarray(w), None, axes)
        wide = to_int8(leaf)
        assert wide.codes.dtype == jnp.int8 and wide.describe() == "int8 per channel"
        np.testing.assert_array_equal(to_dense(wide), to_dense(leaf))
        check_leaf(leaf)
    with pytest.raises(UnsupportedInput, match="expected a leaf of jc.weights.progressive"):
        to_int8(made(WEIGHTS["normal"], rtn(jc.formats.UINT4_G32)))


def test_weights_on_the_grid_come_back_exactly():
    pairs = [(s, z) for s in range(1, 17) for z in range(16) if max(z, 15 - z) * s <= 127]
    large = [(s, z) for s, z in pairs if max(z, 15 - z) * s >= 111]
    chosen = np.array([[large[rng.integers(len(large))], *rng.choice(pairs, 5)] for _ in range(24)])
    codes = rng.integers(0, 16, (24, 6, 32))
    codes[..., 0], codes[..., 1] = 0, 15
    wide = (codes - chosen[..., 1:]) * chosen[..., :1]
    scale = (1 + np.arange(24) / 128)[:, None]  # of bfloat16
    w = (wide.reshape(24, 192) * scale).astype(np.float32)
    np.testing.assert_array_equal(to_dense(made(w, progressive(32))), w)
    short = made(WEIGHTS["heavy"][:, :100], progressive(32, pad=True))
    assert error(short, WEIGHTS["heavy"][:, :100]) < 0.02 * (WEIGHTS["heavy"][:, :100] ** 2).sum()
    zero = made(np.zeros((2, 64), np.float32), progressive(32))
    np.testing.assert_array_equal(to_dense(zero), 0)


def test_products_of_int8_with_stacked_weights():
    w = jnp.asarray(WEIGHTS["normal"]).reshape(2, 12, 192).swapaxes(1, 2)  # [layers, in, out]
    params = {"w": w, "bias": jnp.ones(12)}
    x = jnp.asarray(rng.normal(size=(16, 192)), jnp.float32)

    def model(p, x):
        start = jnp.broadcast_to(p["bias"], (16, 12))
        return jax.lax.scan(lambda h, w: (h + x @ w, None), start, p["w"])[0]

    method = activation(progressive(32), "int8")
    small = jc.weights.compress(params, method, axes=-2)
    assert small["w"].kernel("cpu")[0] != small["w"].inner.kernel("cpu")[0]
    lifted, exact = jax.jit(jc.lift(model)), jax.jit(model)(params, x)
    wide = {**small, "w": dataclasses.replace(small["w"], inner=to_int8(small["w"].inner))}
    for tree in (small, wide):
        assert float(((lifted(tree, x) - exact) ** 2).sum()) < 0.015 * float((exact**2).sum())
    np.testing.assert_allclose(lifted(small, x), lifted(wide, x), atol=2e-4)


def test_a_second_weight_of_one_shape_compiles_nothing():
    made(WEIGHTS["normal"], progressive(32))
    other = jnp.asarray(WEIGHTS["heavy"])
    assert compiled(progressive(32).compress, other, None, (-1,)) == 0
    assert compiled(progressive(48).compress, other, None, (-1,)) > 0
    with pytest.raises(UnsupportedInput, match="at least 2 values"):
        progressive(-1)
    for wrong in (1, 3):
        with pytest.raises(UnsupportedInput, match="even group"):
            progressive(wrong)
    with pytest.raises(
        UnsupportedInput, match=r"axis of 192, got 40; .* progressive\(group, pad=T"
    ):
        made(WEIGHTS["heavy"], progressive(40))
