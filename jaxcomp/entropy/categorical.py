"""Learned frequencies of a few symbols, one distribution per context: for codebook indices.

Training minimises the mean of bits, a cross entropy, so the logits become the log of the counts.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.base import EntropyModel, JaxcompError
from jaxcomp.coding import build_tables
from jaxcomp.entropy.row_tables import refuse_tracers


def categorical(symbols: int, *, contexts: int = 1, precision: int = 16) -> EntropyModel:
    """Symbols 0 to symbols - 1; params is {"logits"}, f32[contexts, symbols], all 0 at first.

    bits(params, y, context=0) and index(params, shape, context=0): context is integers like y. y
    may be float, of whole values; outside the symbols bits are infinite, and coding escapes.
    """
    if symbols < 1 or contexts < 1:
        raise JaxcompError(f"expected symbols and contexts, got {symbols} and {contexts}")

    def init(key=None):
        return {"logits": jnp.zeros((contexts, symbols))}

    def bits(params, y, context=0):
        column = jnp.round(y).astype(jnp.int32)
        # Negative indices would count from the end.
        column = jnp.where(column < 0, symbols, column)
        log_p = jax.nn.log_softmax(jnp.asarray(params["logits"], jnp.float32))
        found = log_p.at[context, column].get(mode="fill", fill_value=-jnp.inf)
        return found * (-1 / np.log(2)).astype(np.float32)

    def tables(params):
        refuse_tracers(params)
        logits = np.asarray(params["logits"], np.float64)
        pmf = np.exp(logits - logits.max(axis=1, keepdims=True))
        # Nothing is expected outside: the escape has the least frequency there is.
        return build_tables(
            np.pad(pmf, ((0, 0), (0, 1))).astype(np.float32), precision=precision, escape=True
        )

    def index(params, shape, context=0):
        return jnp.broadcast_to(jnp.asarray(context, jnp.int32), shape)

    return EntropyModel(init, bits, tables, index)
