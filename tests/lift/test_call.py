"""What is traced and what stays Python, what is compiled once, and what comes back."""

import functools
import gc
import weakref

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.lift.call import Cached, split
from tests.lift.cases import dense, normal, scaled

X = normal(3, 8)


def _count(fn):
    """fn, and how often it was traced."""
    seen = []

    @functools.wraps(fn)
    def counted(*args, **kwargs):
        seen.append(1)
        return fn(*args, **kwargs)

    return counted, seen


def test_paths_are_those_of_the_parameters_themselves():
    call = split(print, ({"a": [scaled(8, 6), X]}, X), {"k": {"b": X}, "train": True})
    assert call.paths == ["a/0", "a/1", "argument 1", "k/b"]
    assert [path for path, _ in call.compressed()] == ["a/0"]
    assert split(print, (scaled(8, 6), scaled(8, 6)), {}).paths == ["", "argument 1"]


def test_python_values_stay_python_and_results_that_are_not_arrays_come_back():
    def fn(p, x, mode, *, train, names=(), scale=1.0, key=None):
        assert type(train) is bool and mode in ("double", "same") and type(scale) is float
        assert isinstance(names, list) and key is None
        y = x @ p["w"] * (2 if mode == "double" else 1) * scale
        return {"y": y, "mode": mode, "train": train, "none": None, "type": float, "size": y.size}

    w = {"w": scaled(8, 6)}
    fn, traces = _count(fn)
    lifted = jc.lift(fn)
    got = lifted(w, X, "double", train=False, names=["a"], scale=0.5)
    np.testing.assert_allclose(got.pop("y"), X @ w["w"].dense(), rtol=1e-5, atol=1e-6)
    assert got == {"mode": "double", "train": False, "none": None, "type": float, "size": 18}
    assert lifted(w, X, "same", train=True, names=[])["train"] is True
    lifted(w, X + 1, "same", train=True, names=[])
    assert len(traces) == 2


def test_one_program_per_structure_shapes_and_python_values():
    fn, traces = _count(lambda w, x, n=None: x @ w if n is None else (x @ w) * n)
    lifted = jc.lift(fn)
    for seed in (0, 1, 2):
        lifted(scaled(8, 6, seed=seed), normal(3, 8, seed=seed))
    assert len(traces) == 1
    for _ in range(2):
        lifted(scaled(8, 6), normal(4, 8))
        lifted(scaled(8, 6, axes=(-2,), dtype=jnp.bfloat16), X)
        lifted(scaled(8, 6, shared=True), X)
        lifted(scaled(8, 6).dense(), X)
    assert len(traces) == 5
    # Equal values of different types are different.
    results = [lifted(scaled(8, 6), X, n) for n in (1, True, 1.0, np.float32(1), jnp.int32(1))]
    assert len(traces) == 10 and results[1].dtype == results[2].dtype == jnp.float32
    chex.clear_trace_counter()
    run = jax.jit(chex.assert_max_traces(lifted, 1))
    for seed in (0, 1):
        run(scaled(8, 6, seed=seed), X)


class _Unhashable:
    __hash__ = None

    def __init__(self, factor):
        self.factor = factor


def test_values_that_cannot_be_hashed_work_and_are_not_remembered():
    lifted = jc.lift(lambda w, x, options: (x @ w * options.factor, options))
    w = scaled(8, 6)
    for factor in (1.0, 2.0):
        options = _Unhashable(factor)
        out, same = lifted(w, X, options)
        np.testing.assert_allclose(out, X @ w.dense() * factor, rtol=1e-5, atol=1e-6)
        assert same is options
    text = np.array(["left"], object)
    assert lifted(w, X, _Unhashable(1.0))[1].factor == 1.0
    assert jc.lift(lambda w, x, text: (x @ w, text))(w, X, text)[1] is text


def test_programs_hold_no_weights_and_few_of_them_are_kept(monkeypatch):
    lifted = jc.lift(lambda w, x, n: x @ w + n)
    w = scaled(8, 6)
    codes = weakref.ref(w.codes)
    lifted(w, X, 0)
    del w
    gc.collect()
    assert codes() is None
    monkeypatch.setattr(Cached, "MOST", 2)
    cached = Cached(lambda call, arrays: ([], call.trace(arrays)))
    for n in range(4):
        cached(split(lambda n: n, (n,), {}))
    assert len(cached.programs) == 2


def test_keys_numpy_arrays_and_scalars_are_arrays():
    def fn(w, x, key, n):
        return x @ w + jax.random.normal(key, (6,)) * n, jax.random.split(key)[0]

    w, key = scaled(8, 6), jax.random.key(3)
    x = np.asarray(X)
    got, expected = jc.lift(fn)(w, x, key, np.float32(2)), fn(w.dense(), x, key, np.float32(2))
    np.testing.assert_allclose(got[0], expected[0], rtol=1e-5, atol=1e-5)
    assert got[1].dtype == key.dtype and (got[1] == expected[1]).all()


def test_shapes_alone_are_enough():
    def fn(w, x):
        return {"y": x @ w, "w": w}

    shapes = jax.eval_shape(lambda: (scaled(8, 6), X))
    got = jax.eval_shape(jc.lift(fn), *shapes)
    assert got["y"].shape == (3, 6) and got["w"].codes.shape == (8, 6)
    assert jc.lift(fn).report(*shapes).rows[0].nbytes == scaled(8, 6).nbytes


def test_what_is_returned_untouched_stays_compressed():
    def fn(p, x):
        return p, {"again": jax.jit(lambda w: w)(p["w"])}, p["w"][:, :3], p["w"].T.T, x

    params = {"w": scaled(8, 6), "b": X}
    out, again, part, twice, _ = jc.lift(fn)(params, X)
    assert isinstance(out["w"], type(params["w"])) and isinstance(twice, type(params["w"]))
    np.testing.assert_array_equal(again["again"].codes, params["w"].codes)
    np.testing.assert_allclose(part, dense(params)["w"][:, :3])
    assert isinstance(part, jax.Array)


@pytest.mark.parametrize("wrap", [jax.jit, lambda f: f, lambda f: jax.vmap(f, (None, 0))])
def test_no_tracer_is_left_behind(wrap):
    kept = []

    def fn(w, x):
        kept.append(x.shape)
        return x @ w, "static"

    with jax.checking_leaks():
        lifted = jc.lift(fn)
        out = wrap(lambda w, x: lifted(w, x)[0])(scaled(8, 6), X)
    assert out.shape == (3, 6) and kept
