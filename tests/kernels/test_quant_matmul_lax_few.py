"""One row, all groups in a few products: the same integers as a product for each group."""

import re

import jax
import numpy as np
import pytest

from jaxcomp.kernels import quant_matmul_lax, quant_matmul_lax_few
from jaxcomp.kernels.packing import TRITS
from jaxcomp.kernels.quant_matmul_lax import Storage
from tests.kernels.quant_cases import QUICK, case


def _row(bits, group, **options):
    each = case(bits, 1, m=1, group=group, **options)
    storage = Storage(*(each.options[n] for n in ("bits", "tile", "axis", "offset")), None)
    x = np.random.default_rng(1).integers(-127, 128, each.x.shape).astype(np.int8)
    return each, storage, x


@pytest.mark.parametrize(
    "bits, group, wide", [(8, 32, 32), (8, 16, 2), (4, 32, 2), (3, 16, 32), (TRITS, 32, 2)]
)
def test_every_group_has_its_sum_and_its_scale(bits, group, wide, monkeypatch):
    monkeypatch.setattr(quant_matmul_lax_few, "WIDE", wide)
    monkeypatch.setattr(quant_matmul_lax_few, "BLOCK", 800)  # 8 columns of 21: blocks overlap
    each, storage, x = _row(bits, group)
    assert quant_matmul_lax_few.supports(1, each.codes, each.scales, storage)
    arguments = (x, each.codes, each.scales)
    few, plain = (
        jax.jit(lambda *a, m=module: m.int8_matmul(*a, storage=storage), compiler_options=QUICK)
        for module in (quant_matmul_lax_few, quant_matmul_lax)
    )
    expected = x.astype(np.float64) @ each.weight
    tolerance = 1e-6 * np.abs(expected).max()
    np.testing.assert_allclose(few(*arguments), expected, rtol=0, atol=tolerance)
    np.testing.assert_allclose(few(*arguments), plain(*arguments), rtol=0, atol=tolerance)


def test_products_are_few_and_no_dense_weight_is_made():
    k, n = 2048, 640
    each, storage, x = _row(8, 32, k=k, padded=k, n=n)
    run = jax.jit(lambda *a: quant_matmul_lax_few.int8_matmul(*a, storage=storage))
    text = run.lower(x, each.codes, each.scales).as_text()
    assert text.count("stablehlo.dot_general") == k // 32 // quant_matmul_lax_few.WIDE == 2
    assert f"{n}x{k}xf32" not in text and not re.search(rf"{n}x{k}xi32", text)


def test_other_arguments_are_left_to_the_plain_product():
    each, storage, _ = _row(8, 32)
    assert not quant_matmul_lax_few.supports(2, each.codes, each.scales, storage)
    assert not quant_matmul_lax_few.supports(1, each.codes, each.scales[:, :1], storage)
    across = storage._replace(axis=0)
    assert not quant_matmul_lax_few.supports(1, each.codes.T, each.scales.T, across)
