"""A layer whose inputs have a few channels of outliers, as those of language models do."""

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np

import jaxcomp as jc
from jaxcomp.base import Transform

SIZE_IN, SIZE_OUT, VECTORS, OUTLIERS = 64, 32, 256, 3


def layer(magnitude: float = 30.0, seed: int = 0):
    """({"w": [in, out]}, x [vectors, in]): neighbours correlate, three channels are large."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(VECTORS, SIZE_IN))
    x = x + 0.7 * np.roll(x, 1, 1)
    x[:, rng.choice(SIZE_IN, OUTLIERS, replace=False)] *= magnitude
    w = rng.normal(size=(SIZE_IN, SIZE_OUT))
    return {"w": jnp.asarray(w, jnp.float32)}, jnp.asarray(x, jnp.float32)


def network(params, x):
    return x @ params["w"]


_observed: dict = {}


def compressed(method: Transform, params, x):
    """params through observe and compress, as a user would."""
    stats, axes = None, -2
    if method.statistic is not None:
        key = (method.statistic.name, params["w"].shape, float(x.sum()))
        if key not in _observed:
            _observed[key] = jc.observe(network, params, [x], statistic=method.statistic)
        stats, axes = _observed[key], None
    return jc.weights.compress(params, method, stats=stats, axes=axes)


@jax.jit
def _relative(leaf, w, x):
    y = x @ w
    return ((leaf.matmul(x) - y) ** 2).sum() / (y**2).sum()


def output_error(method: Transform, params, x) -> float:
    """Squared error of the layer's output, of that of the output."""
    return float(_relative(compressed(method, params, x)["w"], params["w"], x))


_programs: list[str] = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: _programs.append(event) if "backend_compile" in event else None
)


def compiles_once(method: Transform, params, x) -> bool:
    """Whether a second weight of a shape compiles nothing that the first, a new shape, has not."""
    w = params["w"][:, :24]
    other = w + 1
    start = len(_programs)
    compressed(method, {"w": w}, x)
    first = len(_programs)
    compressed(method, {"w": other}, x)
    return start < first == len(_programs)
