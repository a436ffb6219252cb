"""The blocked product and its gradients against the dense formula, with blocks that do not fit."""

import math
import re

import jax
import numpy as np
import pytest

from jaxcomp.kernels import quant_matmul_lax
from jaxcomp.kernels.packing import TRITS
from jaxcomp.kernels.quant_matmul_lax import Storage
from tests.kernels.quant_cases import QUICK, case


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks that overlap in columns, in tiles and in rows of a tile."""
    monkeypatch.setattr(quant_matmul_lax, "BLOCK", 150)
    for name, columns in (("COLUMNS", 13), ("INT8_COLUMNS", 8), ("LEAST_COLUMNS", 8)):
        monkeypatch.setattr(quant_matmul_lax, name, columns)
    monkeypatch.setattr(quant_matmul_lax, "INT8_BLOCK", 150)


def _everything(each):
    """Product, both gradients and the integer product of a case, and what they must be."""
    options = each.options
    storage = Storage(*(options[name] for name in ("bits", "tile", "axis", "offset")), None)
    rng = np.random.default_rng(1)
    g = rng.normal(size=(len(each.x), each.weight.shape[1])).astype(np.float32)
    x_int = rng.integers(-127, 128, each.x.shape).astype(np.int8)
    k = each.x.shape[1]

    def got(x, x_int, g, codes, scales):
        weight = (codes, scales)
        return (
            quant_matmul_lax.matmul(x, *weight, storage=storage),
            quant_matmul_lax.input_gradient(g, *weight, k=k, storage=storage),
            quant_matmul_lax.scale_gradient(g, x, *weight, storage=storage),
            quant_matmul_lax.int8_matmul(x_int, *weight, storage=storage),
        )

    scales = np.asarray(each.scales if options["axis"] == 0 else each.scales.T)
    length = options["group"] if options["group"] > 0 else 10**6
    level = each.weight / scales.repeat(length, 0)[:k] if length < 10**6 else each.weight / scales
    dscales = (np.asarray(each.x.T, np.float64) @ g) * level
    dscales = np.add.reduceat(dscales, np.arange(0, k, length), axis=0)
    expected = (
        each.x @ each.weight,
        g @ each.weight.T,
        dscales if options["axis"] == 0 else dscales.T,
        x_int.astype(np.float64) @ each.weight,
    )
    run = jax.jit(got, compiler_options=QUICK)
    return run(each.x, x_int, g, each.codes, each.scales), expected


def _close(got, expected):
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize(
    "bits, axis, group",
    [(4, 0, 32), (4, 1, -1), (8, 0, -1), (8, 1, 32), (3, 1, 32), (TRITS, 0, 32)],
)
def test_overlapping_blocks_count_every_weight_once(bits, axis, group, small_blocks):
    _close(*_everything(case(bits, axis, group=group)))


def test_a_tile_larger_than_a_block_is_taken_by_rows(small_blocks):
    _close(*_everything(case(4, 0, tile=96, group=96)))


def test_one_block_takes_it_all():
    _close(*_everything(case(2, 1, tile=32, group=32)))


@pytest.mark.parametrize("axis", [0, 1])
def test_no_dense_weight_in_the_program(axis):
    k, n = 512, 640
    each = case(4, axis, k=k, padded=k, n=n, tile=64, group=64)
    storage = Storage(4, 64, axis, each.options["offset"], None)

    def everything(x, x_int, g, *weight):
        return (
            quant_matmul_lax.matmul(x, *weight, storage=storage),
            quant_matmul_lax.input_gradient(g, *weight, k=k, storage=storage),
            quant_matmul_lax.scale_gradient(g, x, *weight, storage=storage),
            quant_matmul_lax.int8_matmul(x_int, *weight, storage=storage),
        )

    g, x_int = np.zeros((3, n), np.float32), np.zeros((3, k), np.int8)
    arguments = (each.x, x_int, g, each.codes, each.scales)
    text = jax.jit(everything, compiler_options=QUICK).lower(*arguments).compile().as_text()
    shapes = re.findall(r"\b(?:f32|bf16|f16|s32)\[([\d,]+)\]", text)
    assert max(math.prod(int(n) for n in shape.split(",")) for shape in shapes) < k * n // 2
