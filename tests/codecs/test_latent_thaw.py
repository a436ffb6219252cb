"""What is thawed codes as what was frozen: training goes on from weights that hold integers."""

import jax
import numpy as np
import pytest

from jaxcomp import entropy
from jaxcomp.codecs import latent_frozen
from jaxcomp.codecs.latent_thaw import fitted, thaw
from tests.codecs import designs


@pytest.fixture(scope="module")
def thawed():
    return thaw(designs.MEAN_SCALE, designs.frozen(designs.MEAN_SCALE))


def test_parameters_are_shaped_as_those_of_init(thawed):
    begun = designs.initial(designs.MEAN_SCALE)
    assert jax.tree.structure(thawed) == jax.tree.structure(begun)
    assert jax.tree.map(np.shape, thawed) == jax.tree.map(np.shape, begun)


def test_freezing_it_again_gives_the_same_values(thawed):
    first = designs.frozen(designs.MEAN_SCALE)
    again = latent_frozen.freeze(designs.MEAN_SCALE, thawed)
    np.testing.assert_array_equal(again.inverse_gains, first.inverse_gains)
    for a, b in (
        (again.prior_integers, first.prior_integers),
        (again.synthesis_integers, first.synthesis_integers),
    ):
        layers = jax.tree.leaves(a, is_leaf=lambda x: "shift" in x)
        others = jax.tree.leaves(b, is_leaf=lambda x: "shift" in x)
        assert len(layers) == len(others) > 5
        for x, y in zip(layers, others, strict=True):
            np.testing.assert_array_equal(
                np.ldexp(np.float64(x["weights"]), -x["shift"]),
                np.ldexp(np.float64(y["weights"]), -y["shift"]),
            )
            np.testing.assert_array_equal(
                np.ldexp(np.float64(x["bias"]), -x["shift"]),
                np.ldexp(np.float64(y["bias"]), -y["shift"]),
            )


@pytest.mark.usefixtures("quick")
def test_densities_fit_their_tables():
    model = entropy.factorized(3)
    params = model.init(jax.random.key(1))
    bias = params["biases"][-1] + np.array([-1.0, 0, 2])[:, None, None]
    params = {**params, "biases": (*params["biases"][:-1], bias)}
    tables = model.tables(params)
    stored = np.asarray(tables.frequencies), np.asarray(tables.offset)
    found = model.tables(fitted(model, *stored))
    rng, cost = np.random.default_rng(0), []
    for row, (p, offset) in enumerate(zip(tables.frequencies, tables.offset, strict=True)):
        p = np.asarray(p, np.float64) / 65536
        y = offset + rng.choice(len(p) - 1, 4000, p=p[:-1] / p[:-1].sum())
        for each in (tables, found):
            column = np.clip(y - each.offset[row], 0, each.entries.shape[1] - 1)
            cost.append(-np.log2(np.asarray(each.frequencies)[row, column] / 65536).mean())
    ideal, ours = np.reshape(cost, (3, 2)).T
    assert (np.abs(ours - ideal) < 0.02).all()
