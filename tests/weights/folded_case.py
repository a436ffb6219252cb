"""A function whose outlier channels are those of a norm's gain, and of a ReLU's units."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import jaxcomp as jc

SIZE = 64  # of everything, so that each program is compiled once


@functools.cache
def case():
    """(params, x [vectors, size]): three channels of the norm and two units are large."""
    rng = np.random.default_rng(0)
    w = {name: rng.normal(size=(SIZE, SIZE)) / 8 for name in ("up", "side", "down")}
    gain = np.ones(SIZE)
    gain[[3, 20, 41]] = 30.0
    w["up"][[3, 20, 41]] /= 10
    w["side"][[3, 20, 41]] /= 10
    w["up"][:, [5, 6]] *= 20
    w["down"][[5, 6]] /= 10
    w |= {"gain": gain, "bias": rng.normal(size=SIZE) / 10}
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), w)
    return params, jnp.asarray(rng.normal(size=(200, SIZE)), jnp.float32)


@jax.jit
def network(params, x):
    x = x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-5) * params["gain"]
    hidden = jax.nn.relu(x @ params["up"] + params["bias"])
    return jnp.concatenate([hidden @ params["down"], x @ params["side"]], -1)


@functools.cache
def stats():
    params, x = case()
    both = jc.weights.both(jc.weights.second_moment, jc.weights.max_magnitude)
    return jc.observe(network, params, [x], statistic=both)


@jax.jit
def error(small):
    """Squared error of the outputs, of that of the outputs."""
    params, x = case()
    y = network(params, x)
    return ((jc.lift(network)(small, x) - y) ** 2).sum() / (y**2).sum()


def check_folded(params, other):
    """The same function, of other weights: to 1e-5."""
    _, x = case()
    y, z = network(params, x), network(other, x)
    np.testing.assert_allclose(z, y, atol=1e-5 * float(jnp.abs(y).max()))
    assert all((params[name] != other[name]).any() for name in params)
