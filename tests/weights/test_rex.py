"""REx: each further term divides the error by twice the levels; fewer inputs cost fewer bytes."""

import jax
import jax.numpy as jnp
import pytest

import jaxcomp as jc
from jaxcomp.base import UnsupportedInput
from jaxcomp.weights.rex import rex
from tests.checks import check_leaf
from tests.weights.outliers import compiles_once, compressed, layer, network, output_error

pytestmark = pytest.mark.usefixtures("quick_file")

INT4 = jc.formats.INT4._replace(scale="float32")
LEVELS = 7


def test_every_term_keeps_the_bound():
    params, _ = layer()
    step = jnp.abs(params["w"]).max(0) / LEVELS
    for terms in (1, 2, 3):
        dense = compressed(rex(INT4, terms), params, None)["w"].dense()
        bound = step / 2 * (1 / (2 * LEVELS)) ** (terms - 1)
        worst = (jnp.abs(dense - params["w"]) / bound).max()
        assert 0.5 < worst < 1.001  # tight, and kept but for float32 rounding


def test_terms_multiply_as_their_sum():
    params, x = layer()
    small = compressed(rex(INT4, 2), params, x)
    assert small["w"].describe() == " + ".join(["int4 per channel scale float32"] * 2)
    check_leaf(small["w"])
    one = compressed(jc.weights.rtn(INT4), params, x)["w"]
    assert small["w"].nbytes == 2 * one.nbytes
    got = jax.jit(jc.lift(network, strict=True))(small, x)
    assert (
        jnp.abs(got - network(params, x)).max()
        < 0.1 * jnp.abs(x @ one.dense() - x @ params["w"]).max()
    )


def test_fewer_inputs_hold_the_largest_residuals():
    params, x = layer()
    full, half, few = (rex(INT4, 2, gamma=gamma) for gamma in (1.0, 0.5, 0.25))
    leaf = compressed(half, params, x)["w"]
    check_leaf(leaf)
    size = 64 * 32
    assert leaf.nbytes == size // 2 + size // 4 + 2 * 4 * 32 + 2 * 32  # codes, scales, indices
    residual = ((params["w"] - leaf.terms[0].dense()) ** 2).sum(1)
    kept = leaf.terms[1].index.reshape(-1)
    assert residual[kept].min() >= jnp.delete(residual, kept).max()
    plain = output_error(jc.weights.rtn(INT4), params, x)
    errors = [output_error(m, params, x) for m in (full, half, few)]
    assert errors[0] < errors[1] < errors[2] < plain


def test_bad_shares_and_methods_are_refused():
    with pytest.raises(UnsupportedInput, match="gamma above 0"):
        rex(INT4, gamma=0.0)
    with pytest.raises(UnsupportedInput, match="expected a Format"):
        rex(jc.weights.rtn(INT4), gamma=0.5)


def test_another_weight_of_the_shape_compiles_nothing_new():
    assert compiles_once(rex(INT4, gamma=0.5), *layer())
