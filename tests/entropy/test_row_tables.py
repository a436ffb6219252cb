"""The crossing to integers: every row is its density, its ends are its tails, wide rows escape."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.entropy import gaussian_log_mass, scaled
from jaxcomp.entropy.row_tables import row_tables
from tests.checks import check_tables

SCALES = jnp.array([0.4, 5.0, 15.0])
MEANS = jnp.array([0.2, -100.0, 3.0])


def rows(params, lower, upper):
    return scaled(gaussian_log_mass)(lower, upper, SCALES * params, MEANS)


def test_a_row_is_its_density_and_its_tail():
    tables = row_tables(rows, 3, tail_mass=2.0**-10)(1.0)
    check_tables(tables)
    assert tables.escape
    width = tables.entries.shape[1] - 1
    # The widest row decides: the quantiles 2**-11 of scale 15 are 3.3 scales out.
    assert width == np.ceil(3.298 * 15 + 3 - 0.5) - np.floor(-3.298 * 15 + 3 + 0.5) + 1
    y = np.asarray(tables.offset) + np.arange(width)[:, None]
    mass = np.exp(np.asarray(rows(1.0, jnp.float32(y - 0.5), jnp.float32(y + 0.5))))
    expected = np.concatenate([mass, 1 - mass.sum(0, keepdims=True)]).T
    # Each symbol needs a frequency of 1, so the likely ones give up some.
    np.testing.assert_allclose(np.asarray(tables.frequencies) / 65536, expected, atol=2.5e-3)
    np.testing.assert_allclose(
        np.asarray(tables.frequencies)[2] / 65536, expected[2], atol=width / 65536 * 0.03
    )


def test_rows_that_would_be_too_wide_keep_their_middle():
    tables = row_tables(rows, 3, maximum_symbols=33)(1.0)
    assert tables.entries.shape[1] <= 33
    frequencies = np.asarray(tables.frequencies)
    offset, width = np.asarray(tables.offset), tables.entries.shape[1] - 1
    np.testing.assert_allclose(offset + (width - 1) / 2, MEANS, atol=1.5)
    assert width > 28  # as wide as it may, nearly; +- 16 of a scale of 15 leave 29 % outside
    np.testing.assert_allclose(frequencies[2, -1] / 65536, 0.3, atol=0.05)
    assert row_tables(rows, 3, maximum_symbols=2)(1.0).entries.shape[1] == 2


def test_one_program_serves_all_params():
    traces = []

    def counted(params, lower, upper):
        traces.append(1)
        return rows(params, lower, upper)

    make = row_tables(counted, 3)
    make(jnp.float32(1.0))
    before = len(traces)
    make(jnp.float32(0.7))  # narrower tables need another shape of the last step, not the search
    assert len(traces) <= before + 1


@pytest.mark.parametrize(
    "options",
    [{"tail_mass": 0.0}, {"maximum_symbols": 1}, {"precision": 7, "maximum_symbols": 129}],
)
def test_bad_options_are_refused(options):
    with pytest.raises(jc.JaxcompError, match="tail_mass|symbols"):
        row_tables(rows, 3, **options)
