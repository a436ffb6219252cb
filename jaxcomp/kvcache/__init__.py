"""KV caches, one per file: keys and values of past tokens in few bytes."""

from typing import TYPE_CHECKING

from jaxcomp.lazy import load_on_use

if TYPE_CHECKING:
    from jaxcomp.kvcache.attention import attention as attention
    from jaxcomp.kvcache.cachegen import cachegen as cachegen
    from jaxcomp.kvcache.dense import dense as dense
    from jaxcomp.kvcache.ems import ems as ems
    from jaxcomp.kvcache.evict import evict as evict
    from jaxcomp.kvcache.gear import gear as gear
    from jaxcomp.kvcache.kivi import kivi as kivi
    from jaxcomp.kvcache.kvquant import kvquant as kvquant
    from jaxcomp.kvcache.kvquant import kvquant_tables as kvquant_tables
    from jaxcomp.kvcache.plan import plan as plan
    from jaxcomp.kvcache.quantized import quantized as quantized
    from jaxcomp.kvcache.rotated import rotated as rotated
    from jaxcomp.kvcache.rotated import turned as turned
    from jaxcomp.kvcache.scores import expected_attention as expected_attention
    from jaxcomp.kvcache.scores import global_local as global_local
    from jaxcomp.kvcache.scores import h2o as h2o
    from jaxcomp.kvcache.scores import knorm as knorm
    from jaxcomp.kvcache.scores import normalised_attention as normalised_attention
    from jaxcomp.kvcache.scores import recent as recent
    from jaxcomp.kvcache.scores import snapkv as snapkv
    from jaxcomp.kvcache.slots import ragged as ragged
    from jaxcomp.kvcache.smooth_attention import fold_smoothing as fold_smoothing
    from jaxcomp.kvcache.smooth_attention import smooth_attention as smooth_attention
    from jaxcomp.kvcache.staircase import staircase as staircase
    from jaxcomp.kvcache.state import nbytes as nbytes
    from jaxcomp.kvcache.state import take as take
    from jaxcomp.kvcache.zipcache import zipcache as zipcache

load_on_use(
    __name__,
    {
        "attention": ("attention",),
        "cachegen": ("cachegen",),
        "dense": ("dense",),
        "ems": ("ems",),
        "evict": ("evict",),
        "gear": ("gear",),
        "kivi": ("kivi",),
        "kvquant": ("kvquant", "kvquant_tables"),
        "plan": ("plan",),
        "quantized": ("quantized",),
        "rotated": ("rotated", "turned"),
        "scores": (
            *("expected_attention", "global_local", "h2o", "knorm"),
            *("normalised_attention", "recent", "snapkv"),
        ),
        "smooth_attention": ("fold_smoothing", "smooth_attention"),
        "staircase": ("staircase",),
        "slots": ("ragged",),
        "state": ("nbytes", "take"),
        "zipcache": ("zipcache",),
    },
)
