"""entropy_constrained: at equal error, smaller files than plain rounding on a coarser grid."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.formats import INT4_G32, INT8, TERNARY
from jaxcomp.formats.qtensor import from_codes
from jaxcomp.io.weights_file import weights_bytes
from jaxcomp.weights import entropy_constrained
from tests.weights.toy_model import model, params, stats

RNG = np.random.default_rng(0)
IN, OUT = 192, 512
ONE_SCALE = INT8._replace(group=None)
W = jnp.asarray(RNG.laplace(size=(IN, OUT)), jnp.float32)
INPUTS = RNG.normal(size=(1000, IN)) @ RNG.normal(size=(IN, IN)) * RNG.lognormal(size=IN)
MOMENT = INPUTS.T @ INPUTS / 1000
STATE = {"moment": jnp.asarray(1000 * MOMENT, jnp.float32), "count": jnp.float32(1000)}


def error(w, leaf, moment=None):
    off = np.asarray(w - leaf.dense(), np.float64)
    return float((off * (off if moment is None else moment @ off)).sum())


def plain(w, step):
    """Every weight to the nearest level: rtn on a grid of that step."""
    codes = jnp.clip(jnp.round(w.T / step), -127, 127).astype(jnp.int32) + 128
    scales = jnp.full((1, 1), step, jnp.bfloat16)
    place = jc.formats.quantize(w, ONE_SCALE).layout
    return from_codes(codes, scales, None, ONE_SCALE, size=IN).placed(place)


def plain_of_error(w, target, moment=None):
    """The leaf of the step at which plain rounding has that error."""
    x, low, high = np.asarray(w, np.float64), 1e-3, 8.0
    for _ in range(40):
        step = (low * high) ** 0.5
        off = x - step * np.clip(np.rint(x / step), -127, 127)
        below = (off * (off if moment is None else moment @ off)).sum() < target
        low, high = (step, high) if below else (low, step)
    return plain(w, jnp.asarray(low, jnp.bfloat16).astype(jnp.float32))


@pytest.mark.parametrize("output", [False, True])
def test_smaller_files_than_plain_rounding_of_equal_error(output):
    state, moment = (STATE, MOMENT) if output else (None, None)
    ec = entropy_constrained(step=1.6, output=output).compress(W, state, (-2,))
    coarse = plain_of_error(W, error(W, ec, moment), moment)
    assert error(W, ec, moment) < 1.02 * error(W, coarse, moment)
    sizes = [len(weights_bytes({"w": leaf})) for leaf in (ec, coarse)]
    assert sizes[0] < 0.93 * sizes[1], sizes
    # Both are INT8 in memory, and the file of either is what its levels are worth.
    assert ec.nbytes == coarse.nbytes == W.size + 2
    share = np.unique(np.asarray(ec.codes), return_counts=True)[1] / W.size
    entropy = -(share * np.log2(share)).sum() * W.size / 8
    assert entropy < sizes[0] < 1.02 * entropy + 500


def test_one_slope_for_all_weights_beats_one_step():
    pair = {"a": W, "b": W[:, ::-1] * 0.5}

    def total(method):
        leaves = {name: method.compress(w, None, (-2,)) for name, w in pair.items()}
        off = sum(error(pair[name], leaves[name]) for name in pair)
        return off, len(weights_bytes(leaves))

    off, size = total(entropy_constrained(slope=0.1))
    low, high = 0.5, 2.0
    for _ in range(7):  # the step whose files are as large, or a little larger
        step = (low * high) ** 0.5
        low, high = (low, step) if total(entropy_constrained(step=step))[1] < size else (step, high)
    worse, larger = total(entropy_constrained(step=low))
    assert size <= larger < 1.01 * size and off < 0.9 * worse, (off, worse, size, larger)


def test_laws_on_the_grid_finer_is_better_and_one_program():
    coarse, fine, finest = (
        entropy_constrained(step=step).compress(W, None, (-2,)) for step in (1.0, 0.5, 0.1)
    )
    assert error(W, coarse) > 3 * error(W, fine) > 9 * error(W, finest)
    step = float(finest.scales.max())
    assert np.abs(np.asarray(W - finest.dense())).max() < 1.01 * step  # hardly a bit to save
    grid = jnp.asarray(RNG.integers(-3, 4, (IN, OUT)), jnp.float32)
    rms = float(jnp.sqrt((grid**2).mean()))
    method = entropy_constrained(step=float(jnp.bfloat16(1 / rms)))
    levels = np.rint(np.asarray(method.compress(grid, None, (-2,)).dense()))
    np.testing.assert_array_equal(levels, grid)
    module = importlib.import_module("jaxcomp.weights.entropy_constrained")
    before = module._compress._cache_size()
    entropy_constrained(step=0.7).compress(W + 1, None, (-2,))
    assert module._compress._cache_size() == before
    # Where the format has too few levels for the step, the step grows; zeros stay zeros.
    few = INT8._replace(bits=4, offset=8, group=-1)
    small = entropy_constrained(few, step=0.1).compress(W, None, (-2,))
    assert error(W, small) < 1.5 * error(W, jc.formats.quantize(W, few))
    assert not entropy_constrained(step=1).compress(W * 0, None, (-2,)).dense().any()


def _some(path, _):
    return path in ("a", "stack")


def test_through_compress_and_observe():
    w, seen = params(), stats()
    small = jc.weights.compress(
        w, entropy_constrained(slope=1e-3, output=True), stats=seen, where=_some
    )
    assert small["stack"].shape == w["stack"].shape
    x = jnp.ones((2, 64))
    np.testing.assert_allclose(jax.jit(jc.lift(model))(small, x), model(w, x), atol=1.0)
    coded = {name: small[name] for name in ("a", "stack")}
    assert len(weights_bytes(coded)) < 0.7 * jc.tree.nbytes(coded)


def test_bad_input_is_named():
    for options in ({}, {"step": 1.0, "slope": 1.0}, {"step": 0.0}, {"slope": -1.0}):
        with pytest.raises(jc.UnsupportedInput, match="a positive step or slope"):
            entropy_constrained(**options)
    for format in (INT4_G32, TERNARY):
        with pytest.raises(jc.UnsupportedInput, match="symmetric integers"):
            entropy_constrained(format, step=1.0)
