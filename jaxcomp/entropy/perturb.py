"""The value of f at noisy inputs, with the slope that is expected over the noise.

For U uniform on [-1/2, 1/2), the derivative of E f(x + U) is f(x + 1/2) - f(x - 1/2): no noise is
left in it, where the derivative of f(x + u) at the drawn u has all of it. Agustsson and Theis,
Universally quantized neural compression, NeurIPS 2020, section 4.2.
"""

from collections.abc import Callable
from typing import Any

from jax import lax
from jaxtyping import Array, Float


def perturb_and_apply(
    f: Callable[..., Array],
    x: Float[Array, "*shape"],
    noise: Float[Array, "*shape"],
    *arguments: Any,
    expected_gradients: bool = True,
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """(f(x + noise, *arguments), x + noise) for an f that works on each element by itself.

    The first result's slope by x is the expected one (expected_gradients=False: that of f at
    x + noise); by the arguments it is that of f. noise is uniform on [-1/2, 1/2).
    """
    noisy = x + noise
    if not expected_gradients:
        return f(noisy, *arguments), noisy
    slope = lax.stop_gradient(f(x + 0.5, *arguments) - f(x - 0.5, *arguments))
    # x - x is 0 and carries the slope.
    return f(lax.stop_gradient(noisy), *arguments) + slope * (x - lax.stop_gradient(x)), noisy
