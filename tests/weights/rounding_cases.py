"""A layer to round: weights, inputs that go together, and how far the rounded layer is off."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.formats import dense


class Layer(NamedTuple):
    """w f32[out, in] as rows of outputs; x f32[vectors, in]; statistics: what observe gathers."""

    w: jax.Array
    x: np.ndarray
    statistics: dict[str, jax.Array]

    def objective(self, q) -> float:
        """tr((W - Q) X^T X (W - Q)^T), in float64."""
        off = np.asarray(dense(q), np.float64) - np.asarray(self.w, np.float64)
        return float(((self.x.astype(np.float64) @ off.T) ** 2).sum())


def layer(out: int, size: int, vectors: int, *, heavy: bool = False, seed: int = 0) -> Layer:
    """Inputs of different magnitudes, mixed with each other; heavy: weights with outliers."""
    rng = np.random.default_rng(seed)
    w = rng.standard_t(3, (out, size)) if heavy else rng.standard_normal((out, size))
    mix = np.eye(size) + 1.5 / np.sqrt(size) * rng.standard_normal((size, size))
    x = rng.standard_normal((vectors, size)) @ mix * np.exp(0.7 * rng.standard_normal(size))
    x = x.astype(np.float32)
    moment = jnp.asarray(x.T @ x)
    return Layer(jnp.asarray(w, jnp.float32), x, {"moment": moment, "count": jnp.float32(vectors)})


def compiled(function, *arguments) -> int:
    """How many programs were compiled while function(*arguments) ran."""
    seen = []

    def listen(event, duration, **more):
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        jax.block_until_ready(jax.tree.leaves(function(*arguments)))
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    return len(seen)
