"""Powers of integers round weights better than integers do, the more so the longer their tails."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.base import UnsupportedInput
from jaxcomp.formats import INT3, INT4, dense
from jaxcomp.weights.power import EXPONENTS, power
from jaxcomp.weights.rtn import rtn
from tests.checks import check_transform
from tests.weights.rounding_cases import compiled

pytestmark = pytest.mark.usefixtures("quick_file")

rng = np.random.default_rng(0)
WEIGHTS = {  # [in, out]
    "normal": rng.normal(size=(768, 32)).astype(np.float32),
    "heavy": rng.standard_t(4, size=(768, 32)).astype(np.float32),
}
to_dense = jax.jit(dense)


def made(w, method):
    return method.compress(jnp.asarray(w), None, (-2,))


def error(leaf, w):
    return float(((np.asarray(to_dense(leaf)) - w) ** 2).sum() / (w**2).sum())


@pytest.mark.parametrize("kind", WEIGHTS)
def test_less_error_than_integers_of_as_many_bytes(kind):
    w, share = WEIGHTS[kind], {"normal": (0.95, 0.98), "heavy": (0.75, 0.85)}[kind]
    # Scales of 64 integers take as many bytes as scales and exponents of 96 powers.
    groups = made(w, power(INT4._replace(group=96)))
    integers = made(w, rtn(INT4._replace(group=64), clip=True, norm=2.0))
    assert groups.nbytes == integers.nbytes
    assert error(groups, w) < share[0] * error(integers, w)
    row, clipped = made(w, power(INT3)), made(w, rtn(INT3, clip=True, norm=2.0))
    assert row.nbytes == clipped.nbytes + 32
    assert error(row, w) < share[1] * error(clipped, w)
    if kind == "heavy":
        used = np.unique(np.asarray(row.choices))
        assert len(used) > 1 and EXPONENTS[used.min()] < 1


def test_the_uniform_grid_is_one_of_them():
    w = WEIGHTS["normal"]
    uniform = made(w, power(INT3, exponents=(1.0,)))
    clipped = made(w, rtn(INT3, clip=True, norm=2.0))
    assert error(uniform, w) == pytest.approx(error(clipped, w), rel=0.02)
    assert uniform.nbytes == clipped.nbytes


@pytest.mark.parametrize("method", [power(INT3), power(INT3, exponents=(0.5,))], ids=["8", "1"])
def test_weights_on_the_grid_come_back_exactly(method):
    check_transform(method, WEIGHTS["heavy"])


def test_error_falls_with_every_bit():
    w = WEIGHTS["heavy"]
    off = [error(made(w, power(INT3._replace(bits=b))), w) for b in (2, 3)]
    assert off[1] < 0.5 * off[0]


def test_scanned_layers_may_differ_in_their_exponents():
    layers = np.stack([WEIGHTS["normal"][:96, :16], WEIGHTS["heavy"][:96, :16] ** 3])
    params = {"w": jnp.asarray(layers, jnp.float32)}
    x = jnp.asarray(rng.normal(size=(8, 96)), jnp.float32)

    def model(p, x):
        return jax.lax.scan(lambda c, w: (c, x @ w), 0.0, p["w"])[1]

    small = jc.weights.compress(params, power(), stats=jc.observe(model, params, [x]))
    near = jc.weights.compress(params, rtn(INT4), axes=-2)
    exact = jax.jit(model)(params, x)
    off = [((jax.jit(jc.lift(model))(t, x) - exact) ** 2).sum((1, 2)) for t in (small, near)]
    assert (off[0] < np.array([0.5, 0.4]) * off[1]).all()
    first, second = np.asarray(small["w"].choices).reshape(2, -1)
    assert np.median(first) < np.median(second)


def test_a_second_weight_of_one_shape_compiles_nothing():
    made(WEIGHTS["normal"], power(INT3))
    assert compiled(power(INT3).compress, jnp.asarray(WEIGHTS["heavy"]), None, (-2,)) == 0
    with pytest.raises(UnsupportedInput, match="from 0.1 to 1"):
        power(exponents=(2.0,))
    with pytest.raises(UnsupportedInput, match="2 to 8 bits"):
        power(jc.formats.TERNARY)
