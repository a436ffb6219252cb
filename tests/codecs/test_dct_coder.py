"""What encoder and decoder share: predictions of means, costs of symbols, the certain table."""

import jax.numpy as jnp
import numpy as np

from jaxcomp.codecs import dct
from jaxcomp.codecs import dct_coder as coder
from jaxcomp.codecs.dct_context import CERTAIN
from jaxcomp.codecs.dct_geometry import CAPACITIES, geometry
from jaxcomp.codecs.dct_symbols import EXTRA
from jaxcomp.coding import empty, pop, push


def test_host_and_device_predict_the_same_means():
    grid = geometry(10, 14, CAPACITIES[0])
    means = np.random.default_rng(0).integers(
        -coder.MEAN_LIMIT, coder.MEAN_LIMIT + 1, CAPACITIES[0]
    )
    host = coder.predict_means(means.astype(np.int64), grid, np)
    device = coder.predict_means(jnp.asarray(means, jnp.int32), grid)
    np.testing.assert_array_equal(host, device)
    flat = coder.predict_means(np.full(CAPACITIES[0], 77), grid, np)
    inner = (grid.sources < CAPACITIES[0]).any(0)
    assert (flat[inner] == 77).all()


def test_the_certain_table_costs_nothing():
    tables = dct().init().tables
    start = empty(16, 100)
    index = jnp.full(320, CERTAIN, jnp.int32)
    stream = push(start, tables, jnp.zeros(320, jnp.int32), index)
    np.testing.assert_array_equal(stream.head, start.head)
    assert stream.size.sum() == 0
    symbols, _ = pop(start, tables, index)
    assert not symbols.any()


def test_costs_are_code_lengths_with_signs_and_raw_bits():
    model = dct().init()
    row = 5
    probability = np.asarray(model.tables.frequencies)[row] / 65536
    raw = (np.arange(len(EXTRA)) > 0) + EXTRA
    np.testing.assert_allclose(model.bits[row], raw - np.log2(probability), rtol=1e-6)


def test_steps_fall_into_octaves():
    steps = np.array([16, 255, 256, 511, 512, 1024, 4096, 6400])
    found = [int(coder.step_class(jnp.int32(step))) for step in steps]
    assert found == sorted(found) and found[0] == 0 and found[-1] == coder.STEP_CLASSES - 1
    assert [dct_class(int(step)) for step in steps] == found


def dct_class(step):
    from jaxcomp.codecs.dct_tile import _step_class

    return _step_class(step)
