"""SmoothAttention: the outlier channels of keys move into queries, offline.

    q k = (q L) (k / L),    L = diag(lambda),    lambda_i = max_t |k_ti|^alpha

Products stay what they are; keys that are rounded by token lose less, as no few channels stretch
their grid. Both factors are folded into the weights that make queries and keys, which costs nothing
later. Rotations of positions turn pairs of channels, so both of a pair share the larger lambda:
then L commutes with them. Query heads that share a head of keys share its L.

Lin et al., QServe (QoQ), MLSys 2025, section 4.2, where keys and values are then rounded to 4 bits
for each token and head: jc.kvcache.quantized(jc.formats.UINT4, slots).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcomp.base import UnsupportedInput

PAIRS = "halves", "neighbours", None  # channels i and i + size / 2; 2 i and 2 i + 1; no rotation


def smooth_attention(
    keys: Float[Array, "*tokens heads size"], *, alpha: float = 0.5, pairs: str | None = "halves"
) -> Float[Array, "heads size"]:
    """lambda, of some keys, as caches are given them; or of their largest magnitudes alone.

    alpha   0 leaves all as it is, 1 makes all channels of keys alike; 0.5 is the paper's
    pairs   which channels a rotation of positions turns together: "halves" as in Llama of
            transformers, "neighbours" as in the paper of rotary embeddings, None for no rotation
    """
    size = keys.shape[-1]
    if pairs not in PAIRS or (pairs and size % 2):
        raise UnsupportedInput(
            f"expected pairs of {PAIRS} in heads of even size, got {pairs!r} for {size}; None is "
            "for keys without rotations"
        )
    if not 0 <= alpha <= 1:
        raise UnsupportedInput(f"expected alpha from 0 to 1, got {alpha}; 0.5 is usual")
    most = jnp.abs(keys.astype(jnp.float32)).reshape(-1, *keys.shape[-2:]).max(0)
    if pairs:
        split = (2, size // 2) if pairs == "halves" else (size // 2, 2)
        axis = -2 if pairs == "halves" else -1
        split = most.reshape(-1, *split)
        most = jnp.broadcast_to(split.max(axis, keepdims=True), split.shape).reshape(most.shape)
    return jnp.where(most > 0, most, 1.0) ** alpha


def fold_smoothing(
    w_q: Float[Array, "*rest query_heads size"],
    w_k: Float[Array, "*rest heads size"],
    smooth: Float[Array, "heads size"],
) -> tuple[jax.Array, jax.Array]:
    """(W_Q L, W_K / L): weights, or biases, whose last axes are heads and channels.

    Weights that are matrices are reshaped before and behind: w_q.reshape(size_in, heads, size).
    """
    heads, size = smooth.shape
    fits = w_k.shape[-2:] == (heads, size) == (heads, w_q.shape[-1])
    if not fits or w_q.shape[-2] % heads:
        raise UnsupportedInput(
            f"expected w_q [..., a multiple of {heads}, {size}] and w_k [..., {heads}, {size}], "
            f"got {w_q.shape} and {w_k.shape}; reshape matrices to heads and channels"
        )
    wide = jnp.repeat(smooth, w_q.shape[-2] // heads, 0)
    return (w_q * wide).astype(w_q.dtype), (w_k / smooth).astype(w_k.dtype)
