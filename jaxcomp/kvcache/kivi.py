"""KIVI: keys rounded by channel, over groups of tokens; values by token, in groups along the head.

    scale and zero of each channel over `group` tokens for keys, of `group` channels of a token for
    values; the last `window` tokens as they are

Keys have channels that are large in every token, so a scale per token serves them badly; values
have none. Liu et al., KIVI, ICML 2024, sections 3.2 and 3.3. We differ: values, too, leave the
window in groups of tokens, and the window holds `window` to window + group - 1 tokens of both.
"""

from jaxcomp.base import KVCache, UnsupportedInput
from jaxcomp.formats.format import Format
from jaxcomp.formats.qtensor import quantize
from jaxcomp.kvcache.chunked import chunked
from jaxcomp.kvcache.once import once


@once
def kivi(
    slots: int,
    *,
    bits: int = 2,
    group: int = 32,
    window: int = 128,
    scale: str = "bfloat16",
) -> KVCache:
    """bits of codes; group of tokens for keys, of channels for values; scale and zero are `scale`s.

    At 2 bits in groups of 32 a value takes 2 + 2 * 16 / 32 = 3 bits.
    """
    odd = type(group) is not int or group < 2 or group % 2
    if bits not in (1, 2, 3, 4, 8) or odd or window < 0:
        raise UnsupportedInput(
            f"expected bits of 1, 2, 3, 4, 8, an even group and window >= 0, got {bits}, {group} "
            f"and {window}; 2, 32 and 128 are the paper's"
        )
    format = Format(bits, group=group, scale=scale, zero=scale, name=f"uint{bits}")

    def keys(x):  # [b, h, chunks, tokens, d]
        return quantize(x, format._replace(group=-1), axes=-2)

    def values(x):
        return quantize(x, format._replace(group=min(group, x.shape[-1]), pad=True), axes=-1)

    return chunked(slots, keys, values, group=group, window=window, name=f"kivi {bits}")
