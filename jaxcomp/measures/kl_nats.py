"""How far a model's distribution is from a reference's, in nats."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxcomp.base import UnsupportedInput


def kl_nats(
    reference: Float[ArrayLike, "..."],
    logits: Float[ArrayLike, "..."],
    *,
    top: int | None = None,
) -> Float[Array, ""]:
    """KL(reference || model) of the distributions over the last axis, averaged over the rest.

    Both are logits, of any normalisation. top keeps the classes that the reference finds likeliest
    and renormalises both distributions over those: the tail of a large vocabulary is noise to a few
    calibration texts (KL-Top; Hu et al., OstQuant, 2025, section 3.3). A logit of -inf in both is a
    class that does not exist. Computed in float32; differentiable in both, though not through which
    classes are kept.
    """
    for x in (reference, logits):
        if not hasattr(x, "dtype") or jnp.issubdtype(x.dtype, jnp.complexfloating):
            raise UnsupportedInput(
                f"expected logits, arrays of real numbers, got {getattr(x, 'dtype', type(x))}; of "
                "other outputs take the logits, or pass another loss"
            )
    reference, logits = jnp.asarray(reference, jnp.float32), jnp.asarray(logits, jnp.float32)
    if reference.shape != logits.shape or not reference.ndim or not reference.size:
        raise UnsupportedInput(
            f"expected logits [*rows, classes] of one shape, got {reference.shape} and "
            f"{logits.shape}; compare the same outputs"
        )
    if top is not None and (not isinstance(top, int) or top < 2):
        raise UnsupportedInput(
            f"expected top >= 2 classes, got {top!r}; one class has no distribution"
        )
    if top is not None and top < reference.shape[-1]:
        reference, kept = jax.lax.top_k(reference, top)
        logits = jnp.take_along_axis(logits, kept, -1)
    log_p, log_q = jax.nn.log_softmax(reference), jax.nn.log_softmax(logits)
    there = log_p > -jnp.inf
    apart = jnp.where(there, log_p, 0) - jnp.where(there, log_q, 0)
    return (jnp.exp(log_p) * apart).sum(-1).mean()
