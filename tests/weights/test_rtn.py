import jax.numpy as jnp
import jaxtyping
import ml_dtypes
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.weights import rtn
from tests.weights.rounding_cases import compiled

FORMAT = jc.formats.INT3._replace(group=16)
HEAVY = jnp.asarray(np.random.default_rng(0).standard_t(3, (24, 64)), jnp.float32)


def run(method, w=HEAVY):
    return method.compress(w, None, (-1,))


def squared(leaf, w=HEAVY):
    return float(jnp.square(leaf.dense() - w).mean())


def shrunk(w, p):
    """w on the grid whose range is p times that of each group, in float64 but for the scale."""
    grouped = np.asarray(w, np.float64).reshape(w.shape[0], -1, 16)
    scale = (np.abs(grouped).max(-1, keepdims=True) * p / 3).astype(ml_dtypes.bfloat16)
    return np.clip(np.round(grouped / scale.astype(float)), -4, 3) * scale.astype(float), grouped


def test_each_weight_is_at_the_nearest_level_of_the_range_of_its_group():
    expected, _ = shrunk(HEAVY, 1)
    np.testing.assert_allclose(run(rtn(FORMAT)).dense(), expected.reshape(HEAVY.shape), atol=1e-6)


@pytest.mark.parametrize("norm", [2.0, 2.4])
def test_the_range_of_least_error_is_found(norm):
    off = [
        (np.abs(q - w) ** norm).sum(-1) for q, w in (shrunk(HEAVY, 1 - i / 100) for i in range(80))
    ]
    leaf = run(rtn(FORMAT, clip=True, norm=norm))
    found = np.abs(np.asarray(leaf.dense(), np.float64) - HEAVY).reshape(24, 4, 16) ** norm
    np.testing.assert_allclose(found.sum(-1), np.min(off, 0), rtol=1e-4)


@pytest.mark.parametrize("format", [FORMAT, jc.formats.UINT3_G64, jc.formats.TERNARY], ids=str)
def test_clipping_serves_weights_with_heavy_tails(format):
    plain, clipped = run(rtn(format)), run(rtn(format, clip=True, norm=2.0))
    assert squared(clipped) < 0.85 * squared(plain)
    assert clipped.nbytes == plain.nbytes


@pytest.mark.parametrize("clip", [False, True])
def test_weights_on_the_grid_come_back_exactly(clip):
    on_grid = run(rtn(FORMAT)).dense()
    np.testing.assert_array_equal(run(rtn(FORMAT, clip=clip), on_grid).dense(), on_grid)


def test_the_error_falls_with_every_bit_and_bytes_are_those_of_codes_and_scales():
    formats = [FORMAT._replace(bits=b, offset=1 << (b - 1), tile=16) for b in range(2, 9)]
    leaves = [run(rtn(format)) for format in formats]
    off = [squared(leaf) for leaf in leaves]
    assert all(b < 0.5 * a for a, b in zip(off, off[1:], strict=False))
    assert [leaf.nbytes for leaf in leaves] == [24 * (8 * b + 4 * 2) for b in range(2, 9)]


@pytest.mark.parametrize(
    "name",
    "activation adaquant awq entropy_constrained eora gptq hadamard hqq llm_fp4 lorc lsq olive "
    "power rex rtn smoothquant spqr".split(),
)
@pytest.mark.parametrize("what", ["int4", None, 4, type])
def test_no_method_takes_what_is_no_format(name, what, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as outside of tests
    with pytest.raises(jc.UnsupportedInput, match=r"expected a (jc.formats\.)?Format.*pass jc\."):
        getattr(jc.weights, name)(what)


def test_a_second_weight_of_the_same_shape_compiles_nothing():
    params, method = {"a": HEAVY, "b": HEAVY[::-1]}, rtn(FORMAT, clip=True)
    small = jc.weights.compress(params, method, axes=-1)
    assert compiled(lambda: jc.weights.compress(params, rtn(FORMAT, clip=True), axes=-1)) == 0
    np.testing.assert_array_equal(small["b"].dense(), small["a"].dense()[::-1])
