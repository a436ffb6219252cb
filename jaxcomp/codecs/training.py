"""One training step for every image codec that learns.

    minimise  step(quality) * (bits per pixel + rate_weight(quality) * mean squared error)

over crops of photos and, for codecs of many rates, over qualities drawn per crop. A codec is seen
through its `apply` alone:

    apply(params, f32[b, h, w, 3] in 0 .. 255, key=, quality=f32[b]) -> (images, bits f32[b])

A step depends on the seed and its number, so that a run resumes to the same bits. Its products are
float32, or bfloat16 with float32 sums, which accelerators are made for.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int32, UInt8

from jaxcomp.base import Codec, UnsupportedInput

from .mixed_precision import bfloat16_products
from .quality import RATE_WEIGHT, step_of

QUALITIES = (5.0, 95.0)  # what is drawn: beyond, files are rarely wanted and hard to learn from
# Files of half the step are about twice as large. Losses are weighted by the inverse of that: a
# tenth saved counts the same at every rate.
TYPICAL_STEP = 40.0
# The average of parameters over about 1 / (1 - AVERAGE) steps is what is kept in the end.
AVERAGE = 0.999
PRECISIONS = ("float32", "bfloat16")


class State(NamedTuple):
    """A run after `step` steps."""

    step: Int32[Array, ""]
    params: Any
    average: Any
    optimizer: Any


def rate_weight(quality: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """lambda in bits per pixel per squared level."""
    return 3 / (RATE_WEIGHT * step_of(quality) ** 2)  # three samples per pixel


def optimizer(learning_rate: float, steps: int) -> optax.GradientTransformation:
    """Adam with a short warm-up, a cosine decay to a fiftieth, and clipped gradients."""
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, min(500, steps // 10), steps, learning_rate / 50
    )
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))


def usual_precision() -> str:
    """bfloat16 where products of it are faster, on accelerators; else float32."""
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def begin(
    codec: Codec, transform: optax.GradientTransformation, seed: int, params: Any = None
) -> State:
    """The state before the first step, from params or, without them, from nothing."""
    params = codec.init(jax.random.key(seed)) if params is None else params
    copy = jax.tree.map(jnp.copy, params)  # the step donates: no two leaves may share a buffer
    return State(jnp.zeros((), jnp.int32), params, copy, transform.init(params))


def make_step(
    codec: Codec,
    transform: optax.GradientTransformation,
    seed: int,
    *,
    qualities: tuple[float, float] = QUALITIES,
    still: tuple[str, ...] = (),
    precision: str = "float32",
    sharding: jax.sharding.Sharding | None = None,
) -> Callable[[State, UInt8[Array, "b h w 3"]], tuple[State, dict[str, Array]]]:
    """step(state, images) -> (state, {"loss", "bpp", "psnr_db"}), compiled; state is donated.

    still: the parts of the parameters, a dict, that do not learn. precision: of wide products, one
    of PRECISIONS. sharding: where state and measures lie, if that must not be left to XLA.
    """
    if precision not in PRECISIONS:
        raise UnsupportedInput(
            f"expected a precision of {' or '.join(PRECISIONS)}, got {precision!r}"
        )

    def loss(params, images, key):
        if still:
            held = {name: jax.lax.stop_gradient(params[name]) for name in still}
            params = {**params, **held}
        key, drawn = jax.random.split(key)
        low, high = qualities
        quality = jax.random.uniform(drawn, images.shape[:1], minval=low, maxval=high)
        found, bits = codec.apply(params, images, key=key, quality=quality)
        error = jnp.mean((found - images) ** 2, (1, 2, 3))
        rate = bits / (images.shape[1] * images.shape[2])
        total = rate + rate_weight(quality) * error
        total = jnp.mean(total * step_of(quality) / TYPICAL_STEP)
        psnr = jnp.mean(10 * jnp.log10(255.0**2 / jnp.maximum(error, 1e-3)))
        return total, {"loss": total, "bpp": jnp.mean(rate), "psnr_db": psnr}

    derivative = jax.grad(loss, has_aux=True)
    if precision == "bfloat16":
        derivative = bfloat16_products(derivative)

    def step(state, images):
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        images = images.astype(jnp.float32)
        with jax.default_matmul_precision(
            "float32"
        ):  # GPUs and TPUs would round without being asked
            gradient, measures = derivative(state.params, images, key)
        update, moments = transform.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, update)
        # An early average forgets where it began.
        keep = jnp.minimum(AVERAGE, (1 + state.step) / (10 + state.step))
        average = jax.tree.map(lambda a, p: keep * a + (1 - keep) * p, state.average, params)
        return State(state.step + 1, params, average, moments), measures

    return jax.jit(step, donate_argnums=0, out_shardings=sharding)
