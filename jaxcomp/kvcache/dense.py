"""dense: every token as it comes. What the other caches are measured against."""

from jaxcomp.base import KVCache
from jaxcomp.kvcache.chunked import chunked
from jaxcomp.kvcache.once import once


@once
def dense(slots: int) -> KVCache:
    """Room for `slots` tokens of each sequence, in the dtype that init is told."""
    return chunked(slots, lambda x: x, lambda x: x, name="dense")
