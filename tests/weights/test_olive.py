"""Rare outliers cost olive their neighbours; rtn they cost the whole output."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.formats import INT4, dense
from jaxcomp.weights.olive import olive
from jaxcomp.weights.rtn import rtn
from tests.checks import check_transform
from tests.weights.rounding_cases import compiled

pytestmark = pytest.mark.usefixtures("quick_file")

rng = np.random.default_rng(0)


def weights(share, magnitude):
    """Normal, but for a share that is larger. [in, out]"""
    w = rng.normal(size=(768, 32))
    return np.where(rng.random(w.shape) < share, magnitude * w, w).astype(np.float32)


NORMAL, FEW, FAR = weights(0, 1), weights(0.002, 10), weights(0.005, 30)
HEAVY = rng.standard_t(4, size=(768, 32)).astype(np.float32)
to_dense = jax.jit(dense)


def made(w, method):
    return method.compress(jnp.asarray(w), None, (-2,))


def error(leaf, w):
    return float(((np.asarray(to_dense(leaf)) - w) ** 2).sum() / (w**2).sum())


@pytest.mark.parametrize(
    ("w", "of_plain", "of_clipped"),
    [(FEW, 0.12, 0.25), (FAR, 0.08, 0.1), (HEAVY, 0.35, 0.6), (NORMAL, 0.7, 1.1)],
    ids=["few", "far", "heavy", "normal"],
)
def test_less_error_than_integers_of_the_same_bytes(w, of_plain, of_clipped):
    """Without outliers it gains nothing over a searched range: -8 is spent on the identifier."""
    leaf, plain = made(w, olive()), made(w, rtn(INT4))
    clipped = made(w, rtn(INT4, clip=True, norm=2.0))
    assert leaf.nbytes == plain.nbytes == clipped.nbytes
    assert error(leaf, w) < of_plain * error(plain, w)
    assert error(leaf, w) < of_clipped * error(clipped, w)


def test_outliers_survive_and_their_neighbours_are_0():
    leaf = made(FAR, olive())
    steps = np.asarray(leaf.scales, np.float32).reshape(32, 1, 1)
    pairs = np.asarray(to_dense(leaf)).T.reshape(32, -1, 2) / steps
    exact = FAR.T.reshape(32, -1, 2) / steps
    far = np.abs(exact).max(-1) > 14
    assert far.sum() > 50 and (np.abs(pairs[far]).min(-1) == 0).all()
    assert (np.abs(pairs[far]).max(-1) > 0.7 * np.abs(exact[far]).max(-1)).mean() > 0.95
    assert np.abs(pairs[~far]).max() <= 16


def test_weights_on_the_grid_come_back_exactly():
    check_transform(olive(), FEW)


def test_a_model_keeps_its_outputs():
    params = {"layers": jnp.asarray(FAR[:192].reshape(2, 96, 32))}
    x = jnp.asarray(rng.normal(size=(8, 96)), jnp.float32)

    def model(p, x):
        return jax.lax.scan(lambda h, w: (h + x @ w, None), jnp.zeros((8, 32)), p["layers"])[0]

    stats = jc.observe(model, params, [x], statistic=None)
    exact, lifted = jax.jit(model)(params, x), jax.jit(jc.lift(model))
    off = [
        float(((lifted(jc.weights.compress(params, m, stats=stats), x) - exact) ** 2).sum())
        for m in (olive(), rtn(INT4))
    ]
    assert off[0] < 0.5 * off[1]


def test_a_second_weight_of_one_shape_compiles_nothing():
    made(NORMAL, olive())
    assert compiled(olive().compress, jnp.asarray(HEAVY), None, (-2,)) == 0
