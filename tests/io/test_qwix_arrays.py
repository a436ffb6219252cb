"""Qwix arrays: the formula of Qwix gives our weights, and every integer comes back.

The stand-in has the fields of qwix.QArray; with qwix itself installed the same holds.
"""

import sys
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.base import UnsupportedInput
from jaxcomp.formats.normal_float import NORMAL_QUANTILES

F = jc.formats
rng = np.random.default_rng(0)


class QArray(NamedTuple):
    qvalue: Any
    scale: Any
    zero_point: Any
    qtype: Any


def dequantize(array):
    """(qvalue - zero_point) * scale, each scale spread over its tile."""

    def spread(part):
        part = np.asarray(part.astype(jnp.float32))
        for axis, (n, size) in enumerate(zip(part.shape, array.qvalue.shape, strict=True)):
            part = np.repeat(part, size // n, axis)
        return part

    if array.qtype == "nf4":
        value = np.asarray(NORMAL_QUANTILES, np.float32)[np.asarray(array.qvalue.astype(jnp.int32))]
    else:
        value = np.asarray(array.qvalue.astype(jnp.float32))
    zero = 0 if array.zero_point is None else spread(array.zero_point)
    return (value - zero) * spread(array.scale)


CASES = [
    (F.INT8, (32, 6), (-2,), (1, 6)),
    (F.INT4_G32._replace(group=16), (32, 6), (-2,), (2, 6)),
    (F.UINT4_G32._replace(group=16, scale="float32"), (6, 32), (-1,), (6, 2)),
    (F.UINT8, (3, 32, 6), (1,), (3, 1, 6)),
    (F.INT8._replace(group=None), (32, 6), (-2,), (1, 1)),
    (F.INT8, (2, 3, 8, 6), (0, 1, 2), (1, 1, 1, 6)),
    (F.INT4._replace(group=4), (2, 3, 8, 6), (0, 1, 2), (2, 3, 2, 6)),
    (F.FP8_E4M3, (32, 6), (-2,), (1, 6)),
    (F.NF4._replace(group=16), (32, 6), (-2,), (2, 6)),
    (F.INT3, (32, 6), (-2,), (1, 6)),
]


@pytest.mark.parametrize("format,shape,axes,scale", CASES, ids=lambda x: str(x))
def test_there_and_back_without_loss(format, shape, axes, scale):
    leaf = F.quantize(rng.normal(size=shape).astype(np.float32), format, axes)
    array = jc.io.to_qwix(leaf, QArray)
    assert array.qvalue.shape == shape and array.scale.shape == scale
    np.testing.assert_array_equal(dequantize(array), leaf.dense())
    back = jc.io.from_qwix(array, axes, dtype=leaf.dtype)
    assert back.dtype == leaf.dtype
    assert back.packed == leaf.packed and back.format.group == leaf.format.group
    for ours, theirs in zip(leaf.parts, back.parts, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(jc.io.to_qwix(back, QArray).qvalue, array.qvalue)


def test_axes_are_found_where_scales_say_so():
    leaf = F.quantize(np.ones((3, 32, 6), np.float32), F.UINT8, 1)
    assert jc.io.from_qwix(jc.io.to_qwix(leaf, QArray)).packed == ((-2, 32),)
    tensor = F.quantize(np.ones((32, 6), np.float32), F.INT8._replace(group=None))
    with pytest.raises(UnsupportedInput, match="axes="):
        jc.io.from_qwix(jc.io.to_qwix(tensor, QArray))


def test_what_qwix_does_not_have_is_named(monkeypatch):
    w = np.ones((100, 4), np.float32)
    for format in (F.TERNARY, F.FP4, F.INT4_G32._replace(group=32, pad=True)):
        with pytest.raises(UnsupportedInput, match="hand over"):
            jc.io.to_qwix(F.quantize(w, format), QArray)
    odd = QArray(jnp.zeros((4, 6), jnp.int8), jnp.ones((4, 3)), None, jnp.int8)
    with pytest.raises(UnsupportedInput, match="in groups along"):
        jc.io.from_qwix(odd, 0)
    with pytest.raises(UnsupportedInput, match="got int5"):
        jc.io.from_qwix(odd._replace(qtype="int5"), 1)
    monkeypatch.setitem(sys.modules, "qwix", None)
    with pytest.raises(UnsupportedInput, match="pip install qwix"):
        jc.io.to_qwix(F.quantize(w, F.INT8))


@pytest.mark.parametrize("wrong", [np.ones((8, 2), np.float32), None, "int8"], ids=type)
def test_what_is_neither_a_leaf_nor_a_qwix_array_is_named(wrong):
    with pytest.raises(UnsupportedInput, match=f"a QTensor, got {type(wrong).__name__}"):
        jc.io.to_qwix(wrong)
    with pytest.raises(UnsupportedInput, match=f"a qwix.QArray, got {type(wrong).__name__}"):
        jc.io.from_qwix(wrong)
