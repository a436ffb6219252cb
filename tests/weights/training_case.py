"""A small regression and its training: what a few hundred steps make of a network."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxcomp as jc

QUICK = {"xla_backend_optimization_level": 0}  # each program runs once
_rng = np.random.default_rng(3)
X = jnp.asarray(_rng.normal(size=(512, 16)), jnp.float32)
TARGET = jnp.sin(X @ jnp.asarray(_rng.normal(size=(16, 4)) / 2, jnp.float32))


def mlp(p, x):
    """[n, 16] -> [n, 4]; the middle layer is one of two that are stacked."""
    x = jnp.tanh(x @ p["first"] + p["bias"])
    x, _ = jax.lax.scan(lambda x, w: (x + jnp.tanh(x @ w), None), x, p["middle"])
    return x @ p["last"]


def train(apply, params, steps, rate=3e-3):
    """(params, last loss) after some steps of Adam on the whole of X."""
    optimizer = optax.adam(rate)

    def loss(params):
        return jnp.mean((apply(params, X) - TARGET) ** 2)

    def step(state, _):
        params, moments = state
        value, gradient = jax.value_and_grad(loss)(params)
        change, moments = optimizer.update(gradient, moments)
        return (optax.apply_updates(params, change), moments), value

    @functools.partial(jax.jit, compiler_options=QUICK)
    def run(params):
        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), length=steps)
        return params, loss(params)

    return run(params)


@functools.cache
def floats():
    """(params, loss) of the network, trained in floats."""
    rng = np.random.default_rng(0)
    shapes = {"first": (16, 32), "middle": (2, 32, 32), "last": (32, 4)}
    p = {name: rng.normal(size=s) / np.sqrt(s[-2]) for name, s in shapes.items()}
    p["bias"] = np.zeros(32)
    return train(mlp, jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), p), 300)


@functools.cache
def stats():
    return jc.observe(mlp, floats()[0], [X], statistic=None)


def loss_of(params):
    """Of compressed or plain params."""
    apply = jc.lift(mlp)
    loss = jax.jit(lambda p: jnp.mean((apply(p, X) - TARGET) ** 2), compiler_options=QUICK)
    return float(loss(params))


@functools.cache
def trained(method, steps=150):
    """(trained latents, frozen leaves) of a method that trains."""
    latents = jc.weights.compress(floats()[0], method, stats=stats())
    tuned, _ = train(jc.lift(mlp), latents, steps)
    return tuned, jc.formats.freeze(tuned)
