"""Trees with a bound: held for every value that it is for, and nothing else moves."""

import io

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.base import CorruptStream, UnsupportedInput
from jaxcomp.io.error_bound import LOSSY, in_range

DRAW = np.random.default_rng(0)
TREE = {
    "f16": DRAW.standard_normal((16, 60)).astype(np.float16),
    "bf16": DRAW.standard_normal((16, 60)).astype(ml_dtypes.bfloat16),
    "f32": DRAW.standard_normal((40, 60)).astype(np.float32),
    "f64": DRAW.standard_normal((40, 60)),
    "steps": np.arange(1000, dtype=np.int32),
    "flags": DRAW.random(200) < 0.5,
    "spectrum": DRAW.standard_normal(100).astype(np.complex64),
    "nested": [DRAW.standard_normal(300).astype(np.float32), 3],
}
FLOATS = "f16", "bf16", "f32", "f64", "nested/0"


def saved(tree, **options):
    """(what was loaded, the open file's bounds, bytes)"""
    file = io.BytesIO()
    nbytes = jc.io.save_tensors(file, tree, chunk_nbytes=4096, threads=1, **options)
    with jc.io.open_tensors(file, threads=1) as opened:
        found = {name: opened.read(name) for name in opened.names}
        return found, jc.io.bounds_of(opened), nbytes


def error(x, y):
    return np.abs(x.astype(np.float64) - y.astype(np.float64))


def test_every_bound_holds_in_every_chunk_and_the_file_says_what_was_reached():
    exact = saved(TREE)
    assert not exact[1]
    for bound in jc.io.Absolute(0.01), jc.io.Relative(0.01), jc.io.ValueRange(0.003):
        found, said, nbytes = saved(TREE, bound=bound)
        assert set(said) == set(FLOATS) and nbytes < 0.6 * exact[2]
        for name, y in found.items():
            x = exact[0][name]
            if name not in FLOATS:
                np.testing.assert_array_equal(x, y)
                continue
            wide = x.astype(np.float64)
            unit = {"Absolute": 1, "Relative": np.abs(wide), "ValueRange": np.ptp(wide)}
            reached = (error(x, y) / unit[type(bound).__name__]).max()
            # Few float16 are as small without loss.
            assert 0.5 * bound.bound * (x.dtype.itemsize > 2) <= reached <= bound.bound
            assert said[name].bound == bound
            np.testing.assert_allclose(said[name].error, reached, rtol=1e-9)


def test_what_is_not_selected_and_parts_of_compressed_leaves_are_exact():
    leaf = jc.weights.rtn(jc.formats.INT4).compress(jnp.asarray(TREE["f32"]), None, (0,))
    tree = {"small": leaf, "a": TREE["f32"], "b": TREE["f32"]}
    options = {"bound": jc.io.Absolute(0.1), "where": lambda path, x: path != "b"}
    found, said, _ = saved(tree, **options)
    assert list(said) == ["a"] and error(found["a"], TREE["f32"]).max() > 0.05
    np.testing.assert_array_equal(found["b"], TREE["f32"])
    np.testing.assert_array_equal(found["small/scales"], np.asarray(leaf.scales))
    _, said, _ = saved(iter([("b", TREE["f32"]), ("c", lambda: TREE["f32"])]), **options)
    assert list(said) == ["c"]


def test_a_base_is_used_where_the_exact_difference_is_smaller(tmp_path):
    base = tmp_path / "base.jxc"
    jc.io.save_tensors(base, {"x": TREE["f32"]})
    file = io.BytesIO()
    nbytes = jc.io.save_tensors(file, {"x": TREE["f32"]}, base=base, bound=jc.io.Absolute(1e-3))
    assert nbytes < 500
    found = jc.io.load_tensors(file, base=base)["x"]
    np.testing.assert_array_equal(found, TREE["f32"])


def test_a_range_is_that_of_finite_values_rounded_down():
    x = np.array([np.nan, -1, 3, np.inf], np.float32)
    bound, unit = in_range(x, 0.25)
    assert 1 - 1e-12 < bound < 1 and 4 - 1e-12 < unit < 4
    assert in_range(np.full(9, 2.0), 0.5)[0] == in_range(np.full(2, np.nan), 0.5)[0] == 0
    assert np.isfinite(in_range(np.array([-1.7e308, 1.7e308]), 3.0)[0])


def test_bad_bounds_are_named():
    for bound in (1e-3, jc.io.Relative(1.0), jc.io.Absolute(-1.0), jc.io.ValueRange(np.nan)):
        with pytest.raises(UnsupportedInput, match="expected"):
            saved(TREE, bound=bound)

    class File:
        names = ("x",)

    for rows in (
        3,
        [["x", "absolute", 1.0]],
        [["y", "absolute", 1.0, 0.5]],
        [["x", "a", 1.0, 1.0]],
    ):
        File.index = {LOSSY: rows}
        with pytest.raises(CorruptStream, match="bounds of arrays"):
            jc.io.bounds_of(File)
