"""The entries of largest magnitude, with their places.

    C(x) = x on the k largest |x|, else 0        |C(x) - x|^2 <= (1 - k/d) |x|^2

What is not finite counts as largest. A place takes about log2(d / k) + 2 bits (places.py). Stich
et al., Sparsified SGD with Memory, NeurIPS 2018, definition 2.1. The approximate one is Chern et
al., TPU-KNN, NeurIPS 2022: it looks at the largest of each of many bins, and finds `recall` of the
k where large entries lie at random; on CPU and GPU it is exact.
"""

import jax.numpy as jnp
from jax import lax

from jaxcomp.base import Compressor, UnsupportedInput
from jaxcomp.optim.places import count_of, pack_places, unpack_places
from jaxcomp.optim.wire import floats, keeps_nothing, restored, wire


def top_k(density: float = 0.01, *, recall: float | None = None) -> Compressor:
    """density: share of the entries, at least one. Values are sent as x's dtype.

    recall below 1 is for lax.approx_max_k, whose contraction is recall * k/d for entries in random
    order; None: exact.
    """
    count_of(1, density)
    if recall is not None and not 0 < recall <= 1:
        raise UnsupportedInput(
            f"expected recall above 0 and at most 1, or None for all, got {recall}; 0.95, say"
        )

    def compress(key, x, state):
        x = jnp.asarray(x)
        flat = floats(x)
        count = count_of(x.size, density)
        size = jnp.where(jnp.isfinite(flat), jnp.abs(flat), jnp.inf)
        if recall is None:
            _, places = lax.top_k(size, count)
        else:
            _, places = lax.approx_max_k(size, count, recall_target=recall)
        places = jnp.sort(places)
        values = flat[places].astype(x.dtype)
        return wire({"values": values, "places": pack_places(places, x.size)}, x), state

    def entries(sent):
        values = sent.parts["values"]
        return unpack_places(sent.parts["places"], sent.size, values.shape[0]), values

    def decompress(sent):
        places, values = entries(sent)
        return restored(jnp.zeros(sent.size, sent.dtype).at[places].set(values), sent)

    def add(total, sent):
        places, values = entries(sent)
        return total.reshape(-1).at[places].add(values.astype(total.dtype)).reshape(total.shape)

    def contraction(size):
        return count_of(size, density) / max(1, size) * (1 if recall is None else recall)

    return Compressor(keeps_nothing, compress, decompress, contraction, None, "top_k", add)
