"""Floats of 4 bits serve tails of any length, and shifts of large channels serve activations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.base import UnsupportedInput
from jaxcomp.formats import INT4, dense
from jaxcomp.formats.float4 import FP4
from jaxcomp.formats.format import Format
from jaxcomp.formats.microscaling import MXFP4
from jaxcomp.formats.qtensor import QTensor
from jaxcomp.weights.activation import activation
from jaxcomp.weights.llm_fp4 import llm_fp4
from jaxcomp.weights.rtn import rtn
from tests.checks import check_transform
from tests.weights.outliers import compressed, layer, output_error
from tests.weights.rounding_cases import compiled

pytestmark = pytest.mark.usefixtures("quick_file")

rng = np.random.default_rng(0)
WEIGHTS = {  # [in, out]
    "normal": rng.normal(size=(768, 32)).astype(np.float32),
    "heavy": rng.standard_t(4, size=(768, 32)).astype(np.float32),
}
ROWS_FP4 = FP4._replace(scale="float32")  # of activations
to_dense = jax.jit(dense)


def made(w, method):
    return method.compress(jnp.asarray(w), None, (-2,))


def error(leaf, w):
    return float(((np.asarray(to_dense(leaf)) - w) ** 2).sum() / (w**2).sum())


@pytest.mark.parametrize("kind", WEIGHTS)
def test_less_error_than_integers_and_microscaling_of_as_many_bytes(kind):
    w = WEIGHTS[kind]
    # A power of two for each 32 takes as many bytes as a scale and a split for each 96.
    groups, micro = made(w, llm_fp4(FP4._replace(group=96))), made(w, rtn(MXFP4))
    assert groups.nbytes == micro.nbytes
    assert error(groups, w) < 0.8 * error(micro, w)
    row, clipped = made(w, llm_fp4()), made(w, rtn(INT4, clip=True, norm=2.0))
    assert row.nbytes == clipped.nbytes + 32
    assert error(row, w) < 0.65 * error(made(w, rtn(INT4)), w)
    # Where there are no tails, integers with as good a range are as good.
    assert error(row, w) < {"normal": 1.03, "heavy": 0.65}[kind] * error(clipped, w)
    if kind == "heavy":
        assert set(np.unique(np.asarray(row.choices))) >= {0, 1}
        assert error(row, w) < 0.95 * error(made(w, llm_fp4(mantissas=(1,))), w)


def test_weights_on_the_grid_come_back_exactly():
    check_transform(llm_fp4(), WEIGHTS["heavy"])
    leaf = check_transform(llm_fp4(mantissas=(1,)), WEIGHTS["normal"])
    assert isinstance(leaf, QTensor) and leaf.describe() == "e2m1 per channel"


def test_eight_bits_choose_a_split_for_each_output():
    w = np.stack([WEIGHTS["normal"][:96, 0], WEIGHTS["heavy"][:96, 0] ** 5], 1).astype(np.float32)
    leaf = made(w, llm_fp4(Format(8)))
    first, second = np.asarray(leaf.choices).ravel()
    assert first > second  # more mantissa where tails are short
    off = ((np.asarray(to_dense(leaf)) - w) ** 2).sum(0) / (w**2).sum(0)
    plain = ((np.asarray(to_dense(made(w, rtn(jc.formats.FP8_E4M3)))) - w) ** 2).sum(0)
    assert (off < 0.6 * plain / (w**2).sum(0)).all()


@pytest.mark.parametrize("magnitude", [10.0, 100.0])
def test_shifted_channels_leave_activations_their_digits(magnitude):
    params, x = layer(magnitude)
    shifted = output_error(llm_fp4(activation=ROWS_FP4), params, x)
    unshifted = output_error(activation(llm_fp4(), ROWS_FP4), params, x)
    integers = output_error(activation(rtn(INT4), "int4"), params, x)
    assert shifted < 0.75 * unshifted and unshifted < integers
    leaf = compressed(llm_fp4(activation=ROWS_FP4), params, x)["w"]
    k = -np.log2(np.asarray(leaf.input_scale, np.float32)).ravel()
    assert set(k) <= {0, 1, 2, 3} and (k == 3).sum() == 3  # the three outliers


def test_a_second_weight_of_one_shape_compiles_nothing_and_bad_formats_are_refused():
    made(WEIGHTS["normal"], llm_fp4())
    assert compiled(llm_fp4().compress, jnp.asarray(WEIGHTS["heavy"]), None, (-2,)) == 0
    with pytest.raises(UnsupportedInput, match=r"choose among \(0, 1, 2\)"):
        llm_fp4(mantissas=(3,))
    with pytest.raises(UnsupportedInput, match="3 to 8 bits"):
        llm_fp4(jc.formats.INT2)
    with pytest.raises(UnsupportedInput, match="activation format"):
        llm_fp4(activation="fp4")
