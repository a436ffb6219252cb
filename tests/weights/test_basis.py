"""A method inside another sees the weight and what was observed in the same basis."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.base import Transform, UnsupportedInput
from jaxcomp.formats.transformed import transform
from jaxcomp.lift.statistics import max_magnitude, second_moment
from jaxcomp.weights.basis import as_method, in_basis, needs, output_error
from tests.weights.outliers import layer

pytestmark = pytest.mark.usefixtures("quick_file")

SCALE = jnp.linspace(0.5, 2, 64).astype(jnp.bfloat16)
SIGNS = jnp.packbits(jnp.arange(64) % 3 == 0)


def test_weight_and_second_moment_are_moved_as_x_is():
    params, x = layer()
    seen = {}

    def compress(w, state, axes):
        seen.update(w=w, **state)
        return jc.weights.rtn(jc.formats.INT8).compress(w, None, axes)

    inner = Transform(compress, second_moment, "spy")
    w = params["w"].T.astype(jnp.bfloat16)
    state = {"moment": x.T @ x, "count": jnp.float32(len(x))}
    basis = {"input_scale": SCALE, "signs": SIGNS, "rotate": True}
    leaf = in_basis(w, inner, state, **basis)
    t = transform(x, SCALE, SIGNS, rotate=True)
    np.testing.assert_allclose(t @ seen["w"].T, x @ w.T.astype(jnp.float32), rtol=1e-3, atol=0.02)
    largest = float(jnp.abs(t.T @ t).max())
    np.testing.assert_allclose(seen["moment"], t.T @ t, atol=1e-5 * largest)
    assert seen["w"].dtype == jnp.float32 and leaf.dense().dtype == jnp.bfloat16
    assert seen["count"] == len(x)


def test_stacked_layers_of_every_kind_of_leaf_are_scanned():
    """Every layer has scales, factors and inputs of its own; nothing is made dense."""
    rng = np.random.default_rng(0)
    names = ("scaled", "rotated", "again")
    params = {n: jnp.asarray(rng.normal(size=(2, 16, 16)) / 4, jnp.float32) for n in names}
    x = jnp.asarray(rng.normal(size=(30, 16)) * np.geomspace(0.1, 10, 16), jnp.float32)

    def network(params, x):
        def layer(x, w):
            for name in names:
                x = x @ w[name]
            return jnp.tanh(x), None

        return jax.lax.scan(layer, x, params)[0]

    int8, int4 = jc.formats.INT8, jc.formats.INT4
    methods = {
        "scaled": jc.weights.smoothquant(jc.weights.eora(int4, 2), activation=None),
        "rotated": jc.weights.hadamard(jc.weights.awq(int8, grid=2, clip=False)),
        "again": jc.weights.rex(int4, 2, gamma=0.5),
    }
    needed = jc.weights.both(second_moment, max_magnitude)
    stats = jc.observe(network, params, [x], statistic=needed)
    small = jc.weights.compress(params, lambda path, w: methods[path], stats=stats)
    lifted = jc.lift(network)
    dense = {name: leaf.dense() for name, leaf in small.items()}
    np.testing.assert_allclose(jax.jit(lifted)(small, x), network(dense, x), atol=1e-4)
    report = lifted.report(small, x)
    assert len(report.rows) == len(names) and not report.materialised
    formats = [row.format for row in report.rows]
    assert formats[0] == "int4 per channel + rank 2 bfloat16 / scaled"
    assert formats[1] == "int8 per channel / scaled / rotated"
    assert jnp.abs(small["scaled"].input_scale[0] - small["scaled"].input_scale[1]).max() > 0


def test_statistics_of_both_are_gathered_once():
    own, split = needs(second_moment, second_moment)
    assert own is second_moment and split(1) == (1, 1)
    own, split = needs(None, second_moment)
    assert own is second_moment and split(1) == (None, 1)
    own, split = needs(max_magnitude, second_moment)
    state = own.init(3)
    assert [sorted(each) for each in split(state)] == [["max"], ["count", "moment"]]


def test_a_method_that_cannot_follow_a_rotation_is_refused():
    inner = jc.weights.rtn(jc.formats.INT8)._replace(statistic=max_magnitude)
    with pytest.raises(UnsupportedInput, match="put it outside"):
        in_basis(layer()[0]["w"].T, inner, {}, rotate=True)
    with pytest.raises(UnsupportedInput, match="Format or a method"):
        as_method("int4")


def test_output_error_is_that_of_the_products():
    params, x = layer()
    d = params["w"].T
    np.testing.assert_allclose(output_error(d, x.T @ x), ((x @ d.T) ** 2).sum(0), rtol=1e-3)
