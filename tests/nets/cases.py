"""Parameters for tests, and checks that several layers share."""

from typing import Any

import chex
import flax.linen as nn
import jax
import numpy as np

from jaxcomp.nets.fixed_point import dequantise, quantise
from jaxcomp.nets.integer import FEATURES, to_integers
from tests.checks import float_primitives

# How XLA compiles where nobody says otherwise, unlike in these tests: see tests/conftest.py.
AS_USUAL: dict[str, Any] = {"xla_backend_optimization_level": 3}
if jax.__version_info__ < (0, 11):  # later ones have no other
    AS_USUAL["xla_cpu_use_fusion_emitters"] = True


def random_variables(net: nn.Module, *arguments: Any, seed: int = 0) -> Any:
    """What net.init would shape, filled so that activations keep their size; biases of 0.1.

    Without a program: jax.random takes a second to compile for every new shape.
    """
    generator = np.random.default_rng(seed)

    def fill(shape):
        fan_in = int(np.prod(shape.shape[:-1]))
        spread = fan_in**-0.5 if len(shape.shape) > 1 else 0.1
        return jax.device_put(generator.normal(0, spread, shape.shape).astype(np.float32))

    return jax.tree.map(fill, jax.eval_shape(net.init, jax.random.key(0), *arguments))


def check_one_trace(net: nn.Module, *arguments: Any) -> None:
    """New parameters and new numbers of the same shapes do not trace a network again."""
    chex.clear_trace_counter()
    apply = jax.jit(chex.assert_max_traces(lambda v, *args: net.apply(v, *args), n=1))
    for seed in range(2):
        variables = random_variables(net, *arguments, seed=seed)
        apply(variables, *(argument + seed for argument in arguments))


def check_trained_as_run(net: nn.Module, x: np.ndarray) -> np.ndarray:
    """A network on FEATURES computes the same in floats as in integers; returns the integers."""
    variables = random_variables(net, x)
    integers = to_integers(net, variables, x)
    y = jax.jit(net.apply)(integers, quantise(x, FEATURES))
    assert not float_primitives(net.apply, integers, quantise(x, FEATURES))
    np.testing.assert_array_equal(jax.jit(net.apply)(variables, x), dequantise(y, FEATURES))
    return np.asarray(y)
