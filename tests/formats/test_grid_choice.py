"""Each group gets the table that serves it best, found by trying all of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.base import UnsupportedInput
from jaxcomp.formats.format import Format
from jaxcomp.formats.grid_choice import GridChoice, choose
from jaxcomp.formats.layout import layout
from jaxcomp.formats.qtensor import QTensor
from tests.checks import check_leaf

rng = np.random.default_rng(0)
EVEN, WIDE, SIDED = (-3.0, -1.0, 1.0, 3.0), (-4.0, 0.0, 1.0, 4.0), (1.0, 0.25, -2.0, -0.5)
FORMAT, SHRINK = Format(2, group=8), (1.0, 0.5)
W = rng.standard_t(3, (12, 32)).astype(np.float32)


def rounded(w, table, scale):
    """The levels of w, each found among all; w [group], in float64."""
    values = np.array(table) * scale
    return values[np.abs(w[:, None] - values).argmin(1)]


def best(w, tables):
    found = []
    for table in tables:
        spans = [max(table) / p for p in SHRINK] + [-min(table)]
        for span in spans:
            scale = float(jnp.asarray(np.abs(w).max() / span, jnp.bfloat16))
            found.append(rounded(w.astype(np.float64), table, scale))
    return min(found, key=lambda near: ((near - w) ** 2).sum())


def test_table_and_scale_are_those_of_least_error_among_all():
    tables = (EVEN, WIDE, SIDED)
    leaf = choose(jnp.asarray(W), tables, FORMAT, shrink=SHRINK)
    expected = np.stack([best(w, tables) for w in W.reshape(-1, 8)]).reshape(W.shape)
    np.testing.assert_allclose(leaf.dense(), expected, rtol=1e-6)
    assert set(np.unique(leaf.choices)) == {0, 1, 2}
    assert leaf.nbytes == 12 * (32 // 4 + 4 * 2 + 4)
    assert leaf.describe() == "int2 g8, of 3 tables"
    check_leaf(leaf)


def test_one_table_is_a_qtensor():
    leaf = choose(jnp.asarray(W), (SIDED,), FORMAT, shrink=SHRINK)
    assert isinstance(leaf, QTensor) and leaf.format.table == SIDED
    expected = np.stack([best(w, (SIDED,)) for w in W.reshape(-1, 8)]).reshape(W.shape)
    np.testing.assert_allclose(leaf.dense(), expected, rtol=1e-6)


def test_any_layout_and_stacks_multiply_under_lift():
    flat = choose(jnp.asarray(W), (EVEN, WIDE), FORMAT)
    stack = flat.placed(layout((2, 3, 32, 2), (-2,)))  # [layers, heads, in, size]
    dense = np.asarray(flat.dense()).reshape(2, 3, 2, 32).swapaxes(-1, -2)
    last = jax.tree.map(lambda part: part[1], stack)
    np.testing.assert_array_equal(last.dense(), dense[1])

    def scanned(w, x):
        return jax.lax.scan(lambda c, w: (c, jnp.einsum("mi,his->mhs", x, w)), 0.0, w)[1]

    x = rng.normal(size=(5, 32)).astype(np.float32)
    y = jax.jit(jc.lift(scanned, strict=True))(stack, x)
    np.testing.assert_allclose(y, np.einsum("mi,lhis->lmhs", x, dense), atol=1e-4)
    assert isinstance(stack, GridChoice) and stack.kernel("cpu") == ("blocked lax", "")


def test_a_group_of_zeros_is_zeros_and_bad_tables_are_refused():
    leaf = choose(jnp.zeros(W.shape), (EVEN, WIDE), FORMAT)
    np.testing.assert_array_equal(leaf.dense(), 0)
    with pytest.raises(UnsupportedInput, match="tables of 4 levels"):
        choose(jnp.asarray(W), (EVEN, (0.0, 1.0)), FORMAT)
    with pytest.raises(UnsupportedInput, match="choose group=-1"):
        choose(jnp.asarray(W), (EVEN,), FORMAT._replace(group=None))
