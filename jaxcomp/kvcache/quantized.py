"""quantized: every token rounded by itself, in groups along the head."""

from jaxcomp.base import KVCache, UnsupportedInput
from jaxcomp.formats.format import Format, check
from jaxcomp.formats.qtensor import quantize
from jaxcomp.kvcache.chunked import chunked


def quantized(format: Format, slots: int, *, values: Format | None = None) -> KVCache:
    """format: of keys, and of values where no other is given; its groups run along the head."""
    values = format if values is None else values
    for each in (format, values):
        check(each)
        if each.group is None:
            raise UnsupportedInput(
                f"expected a format with scales per token, got {each}; group=-1 is one for a head"
            )

    def encode(format):
        return lambda x: quantize(x, format, axes=-1)

    return chunked(slots, encode(format), encode(values), name=f"quantized {format} {values}")
