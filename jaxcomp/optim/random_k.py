"""One entry out of every few, drawn: no places are sent, for the key says which.

    unbiased:  C(x) = m x on what is drawn, else 0       omega = m - 1
    else:      C(x) = x on what is drawn, else 0         delta = 1 / m

with m = ceil(d / k). Wangni et al., Gradient Sparsification, NeurIPS 2018; the constants as in
Stich et al., Sparsified SGD with Memory, NeurIPS 2018. We differ: one entry is drawn from each run
of m, instead of k from all. The chance of every entry is 1/m as there, and so are both constants;
no sort is needed. Senders that share a key draw alike, so that their wires can be summed.
"""

import jax.numpy as jnp
from jaxtyping import Array, Int32, UInt32

from jaxcomp.base import Compressor
from jaxcomp.optim.places import count_of
from jaxcomp.optim.random import words
from jaxcomp.optim.wire import all_finite, blocks, keeps_nothing, restored, wire


def random_k(density: float = 0.01, *, unbiased: bool = True) -> Compressor:
    """density: share of the entries; values are sent as x's dtype, beside a key of 8 bytes.

    unbiased=False is for error feedback. An array with an entry that is not finite is sent as NaN.
    """

    def run_of(size):
        return -(-size // max(1, count_of(size, density)))

    def compress(key, x, state):
        x = jnp.asarray(x)
        run = max(1, run_of(x.size))
        rows = blocks(x, run)  # [k, m]
        values = jnp.take_along_axis(rows, _drawn(key, len(rows), run)[:, None], 1)[:, 0]
        values = jnp.where(all_finite(rows), values * (run if unbiased else 1), jnp.nan)
        return wire({"values": values.astype(x.dtype), "key": key}, x), state

    def decompress(sent):
        values = sent.parts["values"]
        run = max(1, run_of(sent.size))
        drawn = _drawn(sent.parts["key"], len(values), run)
        rows = jnp.zeros((len(values), run), sent.dtype)
        return restored(rows.at[jnp.arange(len(values)), drawn].set(values), sent)

    def add(total, sent):
        values = sent.parts["values"]
        run = max(1, run_of(sent.size))
        places = run * jnp.arange(len(values)) + _drawn(sent.parts["key"], len(values), run)
        flat = total.reshape(-1).at[places].add(values.astype(total.dtype), mode="drop")
        return flat.reshape(total.shape)

    def contraction(size):
        return 1 / max(1, run_of(size))

    def variance(size):
        return max(1, run_of(size)) - 1.0

    constants = (None, variance) if unbiased else (contraction, None)
    return Compressor(keeps_nothing, compress, decompress, *constants, "random_k", add)


def _drawn(key: UInt32[Array, "2"], count: int, run: int) -> Int32[Array, " count"]:
    """A place in each run; the remainder of 32 bits, uniform to run / 2**32."""
    return (words(key, (count,)) % jnp.uint32(run)).astype(jnp.int32)
