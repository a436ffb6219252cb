"""Models of channels: any density becomes one, and the channels are the last axis."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.entropy import channelwise, gaussian_log_mass, scaled
from tests.checks import check_entropy_model

pytestmark = pytest.mark.usefixtures("quick_file")

SCALES = jnp.array([0.6, 3.0, 9.0])
MEANS = jnp.array([0.0, 40.3, -7.0])


def model():
    return channelwise(
        lambda key=None: {"scale": SCALES, "mean": MEANS},
        lambda params, low, high: scaled(gaussian_log_mass)(
            low, high, params["scale"], params["mean"]
        ),
        3,
    )


def test_the_law():
    symbols = np.rint(np.random.default_rng(0).normal(MEANS, SCALES, (50, 400, 3)))
    made = model()
    check_entropy_model(made, made.init(), symbols.astype(np.int32))


def test_every_row_is_around_its_own_median():
    tables = model().tables(model().init())
    middle = np.asarray(tables.offset) + (tables.entries.shape[1] - 1) / 2
    np.testing.assert_allclose(middle, MEANS, atol=1.1)


def test_another_last_axis_is_refused():
    made = model()
    for call in (
        lambda: made.bits(made.init(), jnp.zeros((3, 4))),
        lambda: made.index(made.init(), (4,)),
        lambda: made.index(made.init(), ()),
    ):
        with pytest.raises(jc.JaxcompError, match="last axis of 3 channels"):
            call()
