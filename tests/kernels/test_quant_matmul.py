"""x times a packed weight: every width, both layouts, zero points, tables and gradients."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from jaxcomp.base import UnsupportedInput
from jaxcomp.kernels import quant_matmul
from jaxcomp.kernels.packing import TRITS
from tests.kernels.quant_cases import QUICK, case

NF4 = tuple(float(x) for x in np.linspace(-1, 1, 16) ** 3)


def _run(each, **options):
    options = each.options | options
    run = jax.jit(functools.partial(quant_matmul.run, **options), compiler_options=QUICK)
    return run(each.x, each.codes, each.scales, each.zeros)


def _close(got, expected, tolerance=2e-6):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("bits", [TRITS, 1, 3, 4, 7, 8])
def test_every_width_is_the_dense_product(bits):
    axis, zeros = bits % 2, bits in (3, 8)
    each = case(bits, axis, zeros=zeros)
    _close(_run(each), each.x @ each.weight)


@pytest.mark.parametrize("table, bits", [(NF4, 4), ((-1.0, 0.0, 2.5), 2), (NF4 * 2, 8)])
def test_a_table_gives_the_levels(table, bits):
    each = case(bits, bits // 4 % 2, table=table)
    _close(_run(each), each.x @ each.weight)


@pytest.mark.parametrize("axis", [0, 1])
def test_one_scale_for_all(axis):
    each = case(4, axis, group=-1)
    one = each._replace(scales=each.scales[:1, :1], weight=None)
    expected = each.x @ (each.weight / each.scales.reshape(1, -1) * each.scales[0, 0])
    _close(_run(one), expected)


def test_half_floats_in_and_out():
    each = case(4, 0, zeros=True)
    half = each._replace(x=jnp.asarray(each.x, jnp.bfloat16))
    got = _run(half)
    assert got.dtype == jnp.bfloat16
    expected = np.asarray(half.x, np.float64) @ each.weight
    _close(np.asarray(got, np.float64), expected, 2**-8)


@pytest.mark.parametrize("axis", [0, 1])
def test_gradients_are_those_of_the_dense_formula(axis):
    each = case(4, axis, zeros=True)
    ones = each._replace(scales=jnp.ones_like(each.scales), zeros=None)
    level = _run(ones._replace(x=jnp.eye(90)), offset=0)

    def dense(x, scales, zeros):
        scales, zeros = (a if axis == 0 else a.T for a in (scales, zeros))
        spread = functools.partial(jnp.repeat, repeats=32, axis=0, total_repeat_length=96)
        return ((x @ ((level - spread(zeros)[:90]) * spread(scales)[:90])) ** 2).sum()

    def packed(x, scales, zeros):
        return (quant_matmul.run(x, each.codes, scales, zeros, **each.options) ** 2).sum()

    arguments = (each.x, each.scales, each.zeros)
    got, expected = (
        jax.jit(jax.grad(f, argnums=(0, 1, 2)), compiler_options=QUICK)(*arguments)
        for f in (packed, dense)
    )
    for a, b in zip(got, expected, strict=True):
        _close(a, b, 1e-5)


def test_vmap_over_x_alone_is_one_product_with_more_rows():
    each = case(4, 0)
    run = functools.partial(quant_matmul.run, **each.options)
    over_x = jax.vmap(run, (0, None, None))
    x = jnp.stack([each.x, 2 * each.x])
    _close(over_x(x, each.codes, each.scales)[1], 2 * each.x @ each.weight)
    text = jax.jit(over_x).lower(x, each.codes, each.scales).as_text()
    assert "tensor<6x21xf32>" in text  # 2 x 3 rows in one product


def test_a_scan_over_layers_takes_its_weights_in_turn():
    cases = [case(4, 0, k=24, padded=24, n=24, tile=8, group=8, seed=seed) for seed in (0, 1)]
    run = functools.partial(quant_matmul.run, **cases[0].options)
    stacked = [jnp.stack([getattr(c, name) for c in cases]) for name in ("codes", "scales")]
    got, _ = jax.lax.scan(lambda x, weight: (run(x, *weight), None), cases[0].x, stacked)
    _close(got, cases[0].x @ cases[0].weight @ cases[1].weight)


def test_vmap_over_weights():
    cases = [case(4, 1, seed=seed) for seed in (0, 1)]
    run = functools.partial(quant_matmul.run, **cases[0].options)
    stacked = [jnp.stack([getattr(c, name) for c in cases]) for name in ("x", "codes", "scales")]
    got = jax.vmap(run)(*stacked)
    shared_codes = jax.vmap(run, (None, None, 0))(cases[0].x, cases[0].codes, stacked[2])
    for i, each in enumerate(cases):
        _close(got[i], each.x @ each.weight)
    _close(shared_codes[0], cases[0].x @ cases[0].weight)


def test_shards_of_rows_and_of_columns_and_their_gradients():
    each = case(4, 0, m=8, n=24, zeros=True)
    mesh = jax.make_mesh((4, 2), ("rows", "columns"), axis_types=(AxisType.Auto,) * 2)
    rows, columns = PartitionSpec("rows"), PartitionSpec(None, "columns")

    def square(x, codes, scales, zeros, run):
        return (run(x, codes, scales, zeros) ** 2).sum()

    run = functools.partial(quant_matmul.run, **each.options)
    specs = (rows, columns, columns, columns)
    sharded = jax.shard_map(
        run, mesh=mesh, in_specs=specs, out_specs=PartitionSpec("rows", "columns")
    )
    arguments = (each.x, each.codes, each.scales, each.zeros)
    (here, there) = (
        jax.jit(jax.value_and_grad(functools.partial(square, run=f), argnums=(0, 2, 3)))(*arguments)
        for f in (run, sharded)
    )
    for a, b in zip(jax.tree.leaves(there), jax.tree.leaves(here), strict=True):
        _close(a, b, 1e-5)
    _close(np.sqrt(here[0]), np.linalg.norm(each.x @ each.weight))


def test_one_trace_per_shape():
    each, other = case(4, 0), case(4, 0, seed=1)
    chex.clear_trace_counter()

    def run(x, codes, scales):
        return quant_matmul.run(x, codes, scales, **each.options)

    traced_once = jax.jit(chex.assert_max_traces(run, n=1))
    traced_once(each.x, each.codes, each.scales)
    _close(traced_once(other.x, other.codes, other.scales), other.x @ other.weight)


def test_nothing_times_a_weight_is_nothing():
    each = case(4, 0)
    assert quant_matmul.run(each.x[:0], each.codes, each.scales, **each.options).shape == (0, 21)


@pytest.mark.parametrize(
    "change, says",
    [
        ({"group": 64}, "pad the weight"),
        ({"group": 24}, "whole tiles of 16"),
        ({"group": 16}, "6 groups of scales"),
        ({"tile": 3}, "whole tiles of 3"),
        ({"bits": 9}, "TRITS"),
        ({"axis": -1}, "axis 0 or 1"),
        ({"axis": 1}, "got"),
        ({"bits": 8}, "pack the whole weight"),
    ],
)
def test_what_does_not_fit_is_refused(change, says):
    each = case(4, 0)
    with pytest.raises(UnsupportedInput, match=says):
        quant_matmul.run(each.x, each.codes, each.scales, **each.options | change)
