"""quantized: tokens rounded to any format, one by one, or by channel over a few of them."""

from jaxcomp.base import KVCache, UnsupportedInput
from jaxcomp.formats.format import Format, check
from jaxcomp.formats.qtensor import quantize
from jaxcomp.kvcache.chunked import chunked
from jaxcomp.kvcache.once import once


@once
def quantized(
    format: Format,
    slots: int,
    *,
    values: Format | None = None,
    over: int | None = None,
    window: int = 0,
) -> KVCache:
    """format: of keys, and of values where no other is given.

    Its groups run along the head of each token; or, where `over` is a number of tokens, along these
    in each channel, and up to `over` tokens wait as they are, behind the `window` last ones.
    """
    values = format if values is None else values
    for each in (format, values):
        check(each)
        if each.group is None:
            raise UnsupportedInput(
                f"expected a format with scales per token or channel, got {each}; group=-1 is one "
                "for a head, or for all of `over`"
            )
    axis = -1 if over is None else -2

    def encode(format):
        return lambda x: quantize(x, format, axes=axis)

    name = f"quantized {format} {values}" + (f" over {over}" if over else "")
    return chunked(slots, encode(format), encode(values), group=over or 1, window=window, name=name)
