"""The mean by an all-gather of wires: every sender hears all others and adds them up itself.

    mean = 1/N sum_i D(C(x_i))

Nothing is rounded twice, and senders may have chosen different entries. A device sends its wire
N - 1 times: for wires that are small by more than N / 2, as of top_k; else see compressed_mean.
Lin et al., Deep Gradient Compression, ICLR 2018, section 3 exchanges so.
"""

import jax.numpy as jnp

from jaxcomp.base import Compressor, Exchange
from jaxcomp.optim.exchange import add_up, check_axis, gather, gather_nbytes, sender_key, size_of
from jaxcomp.optim.wire import wire_nbytes


def gathered(compressor: Compressor, axis_name: str) -> Exchange:
    """compressor: any; those with `add` cost all senders' entries to add up, not N arrays."""
    check_axis(axis_name)

    def mean(key, x, state):
        wire, state = compressor.compress(sender_key(key, axis_name), x, state)
        total = add_up(compressor, gather(wire, axis_name), x)
        sent = compressor.decompress(wire).astype(jnp.float32)
        return sent, total / size_of(axis_name), state

    def nbytes(x):
        return gather_nbytes(wire_nbytes(compressor, x), size_of(axis_name))

    return Exchange(compressor.init, mean, nbytes, (axis_name,), f"gathered {compressor.name}")
