"""Factors folded into neighbours leave outputs as they were, and statistics follow."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.base import UnsupportedInput
from jaxcomp.lift.observe import Observation
from jaxcomp.lift.symmetry import symmetries
from jaxcomp.weights import fold
from tests.lift.cases import QUICK
from tests.lift.symmetry_cases import TOKENS, decoder, decoder_params


@pytest.fixture(scope="module")
def case():
    params = decoder_params()
    return params, symmetries(decoder, params, TOKENS)


def test_statistics_follow_all_factors_at_once(case):
    """They are those of the moved params: of stacked layers, shared heads and part of a matrix."""
    params, found = case
    rng = np.random.default_rng(0)
    found = sorted(found, key=lambda s: s.kind)  # rotations want gains of ones, scales change them
    turns = [np.linalg.qr(rng.normal(size=(s.size, s.size)))[0] for s in found]
    factors = [
        turn if s.kind == "orthogonal" else np.exp(rng.normal(size=s.size) / 2)
        for s, turn in zip(found, turns, strict=True)
    ]

    @functools.partial(jax.jit, compiler_options=QUICK)
    def change(params, states):
        now = {path: stats[path]._replace(state=state) for path, state in states.items()}
        for s, factor in zip(found, factors, strict=True):
            params, now = fold.apply(params, s, factor), fold.moved(now, s, factor)
        return params, {path: seen.state for path, seen in now.items()}

    base = fold.without_gains(params, found)
    stats = jc.observe(decoder, base, [TOKENS])
    moved, states = change(base, {path: seen.state for path, seen in stats.items()})
    for path, seen in jc.observe(decoder, moved, [TOKENS]).items():
        if seen.state is not None:
            new, old = (states[path]["moment"], stats[path].state["moment"])
            limit = 1e-4 * float(jnp.abs(seen.state["moment"]).max())
            np.testing.assert_allclose(new, seen.state["moment"], atol=limit)
            assert jnp.abs(new - old).max() > 100 * limit or path == "layers/down"


def test_magnitudes_follow_scales_and_are_lost_in_rotations(case):
    _, found = case
    scale = next(s for s in found if s.writers[0].path == "layers/norm2")
    channels = np.arange(scale.size, dtype=np.float32).reshape(2, -1) + 1
    state = {"max_magnitude": {"max": 1 / channels}, "mine": {"own": channels}}
    seen = Observation((2, 8, 6), (), (-2,), 1, jax.tree.map(jnp.asarray, state))
    new = fold.moved({"layers/up": seen}, scale, channels.reshape(-1))["layers/up"].state
    np.testing.assert_allclose(new["max_magnitude"]["max"], 1, rtol=1e-6)
    assert new["mine"] == {"own": None}
    stream = next(s for s in found if s.kind == "orthogonal" and s.readers[0].gain)
    assert fold.moved({"layers/up": seen}, stream, np.eye(8))["layers/up"].state is None


def test_gains_become_ones_where_readers_take_them(case):
    params, found = case
    base = fold.without_gains(params, found)
    assert all((x == 1).all() for x in (base["norm"], base["layers"]["norm1"]))
    np.testing.assert_allclose(base["head"], params["head"] * params["norm"][:, None], rtol=1e-6)
    np.testing.assert_array_equal(base["layers"]["o"], params["layers"]["o"])


def test_factors_are_traced_and_keep_dtypes(case):
    params, found = case
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    scale = next(s for s in found if s.writers[0].path == "norm")
    assert fold.apply(half, scale, np.full(scale.size, 2.0))["head"].dtype == jnp.bfloat16

    def loss(factor):
        return fold.apply(params, scale, factor)["head"].sum()

    slope = jax.grad(loss)(jnp.ones(scale.size))
    np.testing.assert_allclose(slope, -params["head"].sum(1), rtol=1e-5)


def test_what_does_not_fit_is_named(case):
    params, found = case
    scale, stream = found[0], found[-1]
    stream = next(s for s in found if s.kind == "orthogonal" and s.readers[0].gain)
    with pytest.raises(UnsupportedInput, match="channels of kind scale"):
        fold.apply(params, scale, np.ones(3))
    for wrong, says in ((-1.0, "-1.0"), (np.inf, "inf"), (np.nan, "nan")):
        factor = np.ones(scale.size)
        factor[1] = wrong
        with pytest.raises(UnsupportedInput, match=f"positive finite scales, got {says} among"):
            fold.apply(params, scale, factor)
    for wrong, says in ((np.inf, "finite numbers, got inf"), (1.5, "R is 1.2 off the identity")):
        turn = np.eye(stream.size)
        turn[1, 1] = wrong
        with pytest.raises(UnsupportedInput, match=f"{says}.* take Q|{says}.* QR"):
            fold.apply(params, stream, turn)
    with pytest.raises(UnsupportedInput, match=r"shape \(8, 8\) for 8 .* got \(8, 7\); pass"):
        fold.apply(params, stream, np.eye(8, 7))
    with pytest.raises(UnsupportedInput, match="without_gains"):
        fold.apply(params, stream, np.eye(stream.size))
    with pytest.raises(UnsupportedInput, match="layers"):
        fold.apply({"table": params["table"]}, scale, np.ones(scale.size))
