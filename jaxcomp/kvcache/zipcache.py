"""ZipCache: tokens that are attended to in more bits, under scales of channels and of tokens.

    values:  x_tj ~ c_j round(x_tj / c_j),   c_j = sqrt(max_t |x_tj|), a scale and a zero for each t
    keys:    a scale and a zero for each channel

The normalisers c of channels are shared by a chunk, so a token of values takes 2 numbers, and a
channel one, where groups of 32 along heads of 128 take 8 for each token. The tokens of most
saliency, a fixed share of every chunk, get the first number of bits and the others the second, with
scales of their own; a bit says which a token is. Saliency is the attention that a token received,
divided by how many queries could see it: a sum favours the first tokens.

He et al., ZipCache, NeurIPS 2024, sections 4.1 to 4.3. We differ: a token's bits are decided once,
when it leaves the window; the attention that counts is that among tokens which wait, and of all
their queries: score=normalised_attention(probes=0.1) is the paper's, in a tenth of the work (error
of attention on MiniLM-L6: 0.075, for 0.068).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcomp.base import KVCache, UnsupportedInput
from jaxcomp.formats.format import Format
from jaxcomp.formats.qtensor import QTensor, quantize
from jaxcomp.kernels import packing
from jaxcomp.kvcache.apart import largest
from jaxcomp.kvcache.chunked import chunked
from jaxcomp.kvcache.once import once
from jaxcomp.kvcache.scores import Score, normalised_attention

LEAST = 1e-6  # of the largest entry of a channel: it may be zero


class Parts(NamedTuple):
    """high and low: tokens [..., count, size] in their order, those of values over the normalisers
    channels bf16[..., 1, size]; salient u8[..., group / 8]: a bit for each token, whether in high.
    """

    high: QTensor
    low: QTensor
    channels: jax.Array | None
    salient: jax.Array


@once
def zipcache(
    slots: int,
    *,
    bits: tuple[int, int] = (4, 2),
    salient: float = 0.4,
    group: int = 128,
    window: int = 32,
    score: Score | None = None,
) -> KVCache:
    """bits of salient tokens and of the others, the share of salient ones in each chunk of `group`.

    score: what saliency is; normalised_attention() by default, which needs queries. Beside bits, an
    entry of a value takes 2 * 16 / size + 16 / group bits, of a key 4 * 16 / group, and of each
    1 / size.
    """
    if len(bits) != 2 or any(each not in (1, 2, 3, 4, 8) for each in bits):
        raise UnsupportedInput(f"expected two of 1, 2, 3, 4, 8 bits, got {bits}; (4, 2) is usual")
    count = round(salient * group)
    if group % 8 or not 0 < count < group:
        raise UnsupportedInput(
            f"expected a group of whole bytes of bits, and salient tokens beside others, got "
            f"{group} and {salient}; 128 and 0.4 serve"
        )
    kinds = [Format(b, scale="bfloat16", zero="bfloat16", name=f"uint{b}") for b in bits]
    keys, values = (
        functools.partial(compress, kinds=kinds, count=count, axis=axis) for axis in (-2, -1)
    )
    return chunked(
        slots,
        keys,
        values,
        group=group,
        window=window,
        decode_keys=decompress,
        decode_values=decompress,
        score=normalised_attention() if score is None else score,
        name=f"zipcache {bits[0]} {bits[1]}",
    )


def compress(
    x: Float[Array, "*chunks tokens size"],
    saliency: Float[Array, "*chunks tokens"],
    *,
    kinds: list[Format],
    count: int,
    axis: int,
) -> Parts:
    """`count` tokens of most saliency in the first format, the others in the second; scales along
    axis, -1 for one for each token, over normalisers of channels, and -2 for one for each channel.
    """
    salient = largest(saliency, count, axis=-1)
    order = jnp.argsort(~salient, axis=-1, stable=True)
    ordered = jnp.take_along_axis(x.astype(jnp.float32), order[..., None], -2)
    channels = None
    if axis == -1:
        largest_entry = jnp.abs(ordered).max(-2, keepdims=True)
        channels = jnp.sqrt(jnp.maximum(largest_entry, LEAST)).astype(jnp.bfloat16)
        ordered /= channels.astype(jnp.float32)
    parts = ordered[..., :count, :], ordered[..., count:, :]
    kept = (quantize(part, kind, axes=axis) for part, kind in zip(parts, kinds, strict=True))
    bits = packing.pack(salient.astype(jnp.uint8), 1, axis=-1, tile=8)
    return Parts(*kept, channels, bits)


def decompress(parts: Parts) -> jax.Array:
    """f32[*chunks, tokens, size] of what compress made."""
    salient = packing.unpack(parts.salient, 1, axis=-1, tile=8) > 0
    high, low = parts.high.dense(), parts.low.dense()
    ordered = jnp.concatenate([high, low], -2)
    if parts.channels is not None:
        ordered *= parts.channels.astype(jnp.float32)
    behind = high.shape[-2] + jnp.cumsum(~salient, -1)
    place = jnp.where(salient, jnp.cumsum(salient, -1), behind) - 1
    # Of a chunk that nothing was written to, places are beyond the last.
    return jnp.take_along_axis(ordered, place[..., None], -2, mode="clip")
