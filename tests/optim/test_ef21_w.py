"""EF21-W: the path of EF21 where C(s x) = s C(x), and a third of the steps where few are steep."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp import UnsupportedInput, optim
from jaxcomp.base import Compressor
from tests.optim.inputs import descend

SENDERS, ROWS, SIZE = 16, 12, 16
RANDOM = np.random.default_rng(0)
DATA = (
    RANDOM.normal(size=(SENDERS, ROWS, SIZE))
    * np.where(np.arange(SENDERS) == 0, 10, 1)[:, None, None]
)
LABELS = np.sign(RANDOM.normal(size=(SENDERS, ROWS)))
DECAY = 0.1
SMOOTHNESS = np.linalg.eigvalsh(DATA.swapaxes(1, 2) @ DATA / (4 * ROWS))[:, -1] + DECAY
WHOLE = np.linalg.eigvalsh(np.mean(DATA.swapaxes(1, 2) @ DATA, 0) / (4 * ROWS))[-1] + DECAY
TOP_1 = optim.top_k(1 / SIZE)


@jax.jacrev
def gradients(x):
    """Of regularised logistic regression; the first sender's is a hundred times steeper."""
    margins = jnp.float32(LABELS) * jnp.einsum("nrd,d->nr", jnp.float32(DATA), x)
    return jnp.log1p(jnp.exp(-margins)).mean(1) + DECAY / 2 * jnp.square(x).sum()


@functools.cache
def paths():
    step = optim.ef21_step_size
    old, new = (
        step(1 / SIZE, SMOOTHNESS, whole=WHOLE, weighted=weighted) for weighted in (False, True)
    )
    ef21 = optim.ef21(optim.gathered(TOP_1, "senders"))
    weighted = optim.ef21_w(TOP_1, "senders", SMOOTHNESS)
    start = jnp.zeros(SIZE)
    runs = ((ef21, old), (ef21, new), (weighted, new))
    return [descend(method, gradients, start, step=step, steps=900) for method, step in runs]


def test_fewer_bits_at_the_steps_of_theory():
    def steps(path):
        norms = np.linalg.norm(jax.jit(jax.vmap(gradients))(path).mean(1), axis=1)
        return int(np.argmax(norms < 0.1)) or len(path)

    old, new, weighted = map(steps, paths())
    assert weighted == new < 0.4 * old < 0.4 * 900  # 241 and 804, of 6 bytes each


def test_the_same_path_as_ef21_at_the_same_step():
    _, new, weighted = paths()
    np.testing.assert_allclose(weighted, new, rtol=1e-3, atol=1e-5)


def whole_numbers():
    """Towards zero: C(s x) is not s C(x)."""

    def compress(key, x, state):
        return jnp.trunc(x), state

    return Compressor(lambda x: (), compress, lambda wire: wire, None, None, "whole numbers")


def test_any_compressor_follows_the_algorithm():
    steep = np.array([1.0, 2, 9])
    steps = RANDOM.normal(size=(5, 3, 4)).astype(np.float32) * 4
    transform = optim.ef21_w(whole_numbers(), "senders", steep)

    def run(g):
        def step(state, g):
            return tuple(reversed(transform.update(g, state)))

        return jax.lax.scan(step, transform.init(g[0]), g)[1]

    found = jax.jit(jax.vmap(run, 1, 1, axis_name="senders"))(steps)
    weight, reference = (steep / steep.sum())[:, None], np.zeros((3, 4))
    for g, out in zip(steps, found, strict=True):
        reference += np.trunc(g / (3 * weight) - reference)
        np.testing.assert_allclose(out, np.tile((weight * reference).sum(0), (3, 1)), rtol=1e-4)


def test_step_sizes_and_what_is_refused():
    alike = [optim.ef21_step_size(0.1, np.full(3, 2.0), weighted=w) for w in (False, True)]
    t = 1 - 0.9**0.5  # as ef21 has it
    np.testing.assert_allclose(alike, 1 / (2 + 2 * (0.9 / t / t) ** 0.5))
    assert optim.ef21_step_size(1.0, [1.0, 3.0]) == 0.5  # of gradient descent
    with pytest.raises(UnsupportedInput, match="a contraction above 0"):
        optim.ef21_step_size(0.0, [1.0])
    with pytest.raises(UnsupportedInput, match="a positive number for each sender"):
        optim.ef21_w(TOP_1, "senders", [1.0, 0.0])
    with pytest.raises(UnsupportedInput, match="smoothness of 3 senders"):
        three = optim.ef21_w(TOP_1, "senders", [1.0, 2.0])
        jax.vmap(lambda g: three.update(g, three.init(g))[0], axis_name="senders")(jnp.ones((3, 4)))
