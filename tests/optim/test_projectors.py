"""Each projector: P^T P g is a projection, what is left gets its sign, and choices change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp import optim
from jaxcomp.optim.random import fold

KEY = np.array([3, 4], np.uint32)
ALL = [optim.by_columns, optim.by_blocks, optim.by_coordinates, optim.by_svd]


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("shape", [(6, 20), (20, 2, 3)], ids=str)
def test_a_part_is_projected_and_the_rest_gets_signs(make, shape):
    projector, density = make(), 0.3
    g = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    empty = projector.init(g, density)

    @jax.jit
    def both(key):
        part = projector.choose(key, g, empty)
        step = projector.project(g, part, density)
        once = projector.lift(g, part, step, 0.0, density)
        again = projector.lift(once, part, projector.project(once, part, density), 0.0, density)
        signs = projector.lift(g, part, jnp.zeros_like(step), 1.0, density)
        return part, step, once, again, signs

    part, step, once, again, signs = both(KEY)
    assert jax.tree.map(jnp.shape, part) == jax.tree.map(jnp.shape, empty)
    np.testing.assert_allclose(once, again, atol=1e-5)  # P^T P is a projection
    rest = g - once
    np.testing.assert_allclose((once * rest).sum(), 0, atol=1e-4)  # and at right angles
    clear = abs(rest) > 1e-4
    np.testing.assert_array_equal(signs[clear], np.sign(rest[clear]))
    assert make is optim.by_svd or (signs[~clear] == 0).all()
    # Vectors of a fifth of the shorter side are the best part of all.
    share = float(jnp.square(once).sum() / jnp.square(g).sum())
    assert 0.02 < share < 0.8 and (make is not optim.by_svd or share > 0.3)
    if make is not optim.by_svd:
        assert step.size == round(0.3 * g.shape[-1]) * (g.size // g.shape[-1]) or (
            make is optim.by_coordinates and step.size == round(0.3 * g.size)
        )
        seen = np.unique([np.asarray(both(fold(KEY, i))[2] != 0) for i in range(8)], axis=0)
        assert len(seen) > 1


def test_densities_of_all_and_nothing():
    g = jnp.ones((4, 8))
    for make in ALL[:3]:
        projector = make()
        assert projector.covers(g, 1.0) and not projector.covers(g, 0.5)
        assert projector.project(g, projector.init(g, 1.0), 1.0).size == 32
        nothing = projector.init(g, 0.0)
        out = projector.lift(g, nothing, projector.project(g, nothing, 0.0), 1.0, 0.0)
        np.testing.assert_array_equal(out, jnp.ones((4, 8)))


def test_singular_vectors_of_what_is_not_finite_are_not_taken():
    projector = optim.by_svd()
    g = jnp.ones((4, 8)).at[1, 2].set(jnp.nan)
    part = projector.init(g, 0.5)
    np.testing.assert_array_equal(projector.choose(KEY, g, part), part)
    np.testing.assert_array_equal(part.T @ part, np.eye(2))  # what it has till then is a part too
