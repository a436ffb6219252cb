"""EF21-W: EF21 with senders weighted by how steep their losses are, and the steps theory allows.

    w_i = L_i / sum L,     h_i <- h_i + C(g_i / (N w_i) - h_i),     out = sum_i w_i h_i

L_i: smoothness of sender i's loss. Steps up to 1 / (L + M (1 + sqrt(1 - delta) - delta) / delta)
converge, M the root mean square of the L_i for ef21 and their mean for this: less where few are
steep. Richtarik, Gasanov, Burlachenko, Error Feedback Reloaded, ICLR 2024, algorithm 2.

With k_i = N w_i h_i it reads k_i <- k_i + N w_i C((g_i - k_i) / (N w_i)), out = mean of k_i, and so
it is made: EF21 of another compressor, s C(x / s) for s = N w_i. Where C(s x) = s C(x), as of all
in this folder but natural, to rounding, that is C again, and both methods take the same path: there
use ef21, at the step of this one.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.typing import ArrayLike

from jaxcomp.base import Compressor, Exchange, UnsupportedInput
from jaxcomp.optim.ef21 import ef21
from jaxcomp.optim.exchange import size_of
from jaxcomp.optim.gathered import gathered
from jaxcomp.optim.wire import floats, wire


def ef21_w(
    compressor: Compressor,
    axis_name: str,
    smoothness: ArrayLike | Sequence[float],
    *,
    exchange: Callable[[Compressor, str], Exchange] = gathered,
    **options: Any,
) -> optax.GradientTransformation:
    """smoothness [senders]: L_i, up to a common factor, the same array on all senders.

    A wire has 4 bytes more, of s; sums are of whole arrays. State, and options seed, where and
    layers, as in ef21: what it remembers are the k_i.
    """
    steep = _checked(smoothness)
    scales = jnp.asarray(steep / steep.mean(), jnp.float32)

    def scale():
        if (senders := size_of(axis_name)) != len(steep):
            raise UnsupportedInput(
                f"expected smoothness of {senders} senders, as along {axis_name!r}, got "
                f"{len(steep)}; give one for each"
            )
        return scales[lax.axis_index(axis_name)]

    return ef21(exchange(scaled(compressor, scale), axis_name), **options)


def scaled(compressor: Compressor, scale: Callable[[], jax.Array]) -> Compressor:
    """s C(x / s), of the same contraction; s = scale() where it is called, and on the wire."""

    def compress(key, x, state):
        x, by = jnp.asarray(x), scale()
        shrunk = (floats(x) / by).reshape(x.shape).astype(x.dtype)
        sent, state = compressor.compress(key, shrunk, state)
        return wire({"sent": sent, "scale": by}, x), state

    def decompress(sent):
        shrunk = compressor.decompress(sent.parts["sent"]).astype(jnp.float32)
        return (shrunk * sent.parts["scale"]).astype(sent.dtype)

    return compressor._replace(
        compress=compress, decompress=decompress, name=f"scaled {compressor.name}", add=None
    )


def ef21_step_size(
    contraction: float,
    smoothness: ArrayLike | Sequence[float],
    *,
    weighted: bool = True,
    whole: float | None = None,
) -> float:
    """The largest step at which theory has EF21 converge; weighted=False: as known before EF21-W.

    It is far from what is possible where losses are kind: on the regression of the tests ten times
    the step converges in a tenth of the time. contraction: delta of what is sent, of the worst
    leaf. smoothness [senders]: L_i. whole: L of the mean of the losses, by default the mean of L_i,
    which is no less. weighted holds for ef21_w, and for ef21 with C(s x) = s C(x).
    """
    steep = _checked(smoothness)
    if not 0 < contraction <= 1:
        raise UnsupportedInput(
            f"expected a contraction above 0 and at most 1, got {contraction}; "
            "top_k(0.01).contraction(size), say"
        )
    mean = steep.mean() if weighted else np.sqrt(np.square(steep).mean())
    feedback = (1 + np.sqrt(1 - contraction) - contraction) / contraction
    return float(1 / ((steep.mean() if whole is None else whole) + mean * feedback))


def _checked(smoothness: ArrayLike | Sequence[float]) -> np.ndarray:
    steep = np.asarray(smoothness, np.float64)
    if steep.ndim != 1 or not steep.size or not (np.isfinite(steep) & (steep > 0)).all():
        raise UnsupportedInput(
            f"expected smoothness, a positive number for each sender, got {smoothness!r}; "
            "of logistic regression it is the largest eigenvalue of A'A / (4 n)"
        )
    return steep
