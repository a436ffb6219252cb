"""One store of 8 bits serves every width: its views are those of integers, and round well."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.base import UnsupportedInput
from jaxcomp.formats.format import Format
from jaxcomp.formats.qtensor import unpacked
from jaxcomp.weights.activation import activation
from jaxcomp.weights.double_rounding import at_bits, double_rounding, shifted
from jaxcomp.weights.rtn import rtn
from tests.checks import check_leaf, check_transform
from tests.weights.rounding_cases import compiled

rng = np.random.default_rng(0)
NORMAL = rng.normal(size=(256, 48)).astype(np.float32)  # [in, out]
HEAVY = rng.standard_t(4, size=(256, 48)).astype(np.float32)


def made(w, method):
    return method.compress(jnp.asarray(w), None, (-2,))


def error(leaf, w):
    return off_of(np.asarray(jax.jit(jc.formats.dense)(leaf)), w)


def off_of(near, w):
    return float(((near - w) ** 2).sum() / (w**2).sum())


def levels(leaf):
    return np.asarray(unpacked(leaf.codes, leaf.format, -2)) - leaf.format.offset


def test_every_code_shifts_as_rounding_to_even_does():
    codes = jnp.arange(-128, 128, dtype=jnp.int8)
    for bits in range(2, 9):
        expected = np.round(np.arange(-128, 128) / 2 ** (8 - bits))
        expected = expected.clip(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        np.testing.assert_array_equal(shifted(codes, bits), expected)


@pytest.mark.parametrize("w", [NORMAL, HEAVY], ids=["normal", "heavy"])
def test_a_view_is_better_than_dropped_bits_and_close_to_rounding_once(w):
    store = made(w, double_rounding())
    scale = np.asarray(store.scales, np.float32)
    # Below 6 bits a view clips a little and has finer steps: better than the range of rtn.
    for bits, share in ((2, 0.6), (4, 0.85), (7, 1.8)):
        leaf, once = at_bits(store, bits), made(w, rtn(Format(bits, offset=1 << bits - 1)))
        codes = levels(leaf)[:256]
        np.testing.assert_array_equal(codes, shifted(store.codes, bits))
        assert leaf.nbytes == once.nbytes == sum(part.nbytes for part in leaf.parts)
        off, step = error(leaf, w), 2.0 ** (8 - bits) * scale
        dropped = off_of((np.asarray(store.codes) >> 8 - bits) * step, w)
        assert off < (0.5 if bits < 7 else 1.1) * dropped
        assert off < off_of(codes * step, w) + 1e-5  # without new scales
        assert off < error(once, w) * share
    plain = at_bits(store, 2, refit=False)
    np.testing.assert_array_equal(np.asarray(plain.scales, np.float32), 64 * scale)


def test_eight_bits_are_the_store_and_the_law_of_rounding():
    store = check_transform(double_rounding(), NORMAL)
    assert at_bits(store, 8) is store
    jax.tree.map(np.testing.assert_array_equal, store, made(NORMAL, rtn(jc.formats.INT8)))


SHORT = jc.formats.INT8._replace(group=16, pad=True)


@pytest.mark.parametrize(
    ("format", "size"),
    [(jc.formats.INT8_G128, 256), (jc.formats.INT8._replace(group=None), 256), (SHORT, 101)],
    ids=str,
)
def test_views_of_groups_of_one_scale_in_all_and_of_short_groups(format, size):
    w = HEAVY[:size]
    view = at_bits(made(w, double_rounding(format)), 3)
    same = made(w, rtn(format._replace(bits=3, offset=4)))
    assert view.nbytes == same.nbytes and view.format == same.format
    assert error(view, w) < 0.9 * error(same, w)
    check_leaf(view)


def test_a_tree_of_stacked_and_wrapped_stores_is_viewed_and_runs():
    params = {"a": NORMAL[:, :16], "layers": HEAVY.reshape(2, 128, 48), "bias": np.ones(16, "f")}
    params = jax.tree.map(jnp.asarray, params)
    small = jc.weights.compress(params, double_rounding(), axes=-2)
    wrapped = {**small, "a": made(params["a"], activation(double_rounding()))}
    x = jnp.asarray(rng.normal(size=(4, 256)), jnp.float32)

    def model(w, x):
        def layer(total, w):
            return total + x[:, :128] @ w, None

        return x @ w["a"] + w["bias"], jax.lax.scan(layer, jnp.zeros((4, 48)), w["layers"])[0]

    lifted, exact = jax.jit(jc.lift(model)), jax.jit(model)(params, x)
    for tree in (small, wrapped):
        view = at_bits(tree, 5)
        assert view["bias"] is tree["bias"] and view["a"].nbytes < 0.7 * tree["a"].nbytes
        for a, b in zip(lifted(view, x), exact, strict=True):
            assert float(((a - b) ** 2).sum()) < 0.03 * float((b**2).sum())


def test_a_second_store_of_one_shape_compiles_nothing():
    at_bits(made(NORMAL, double_rounding()), 4)
    store = made(HEAVY, double_rounding())
    assert compiled(at_bits, store, 4) == 0 < compiled(at_bits, store, 5)
    assert compiled(double_rounding().compress, jnp.asarray(HEAVY), None, (-2,)) == 0


def test_what_is_no_store_is_refused():
    with pytest.raises(UnsupportedInput, match="signed integers of 8 bits"):
        double_rounding(jc.formats.INT4)
    with pytest.raises(UnsupportedInput, match="none; compress with"):
        at_bits({"w": made(NORMAL, rtn(jc.formats.INT4))}, 3)
    with pytest.raises(UnsupportedInput, match="bits from 2 to 8"):
        at_bits(made(NORMAL, double_rounding()), 1)
