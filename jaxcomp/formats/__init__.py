"""Compressed leaves: number formats, packed tensors, and the product with them."""

from typing import TYPE_CHECKING

from jaxcomp.lazy import load_on_use

if TYPE_CHECKING:
    from jaxcomp.formats.format import Format as Format
    from jaxcomp.formats.integer import INT2 as INT2
    from jaxcomp.formats.integer import INT2_G32 as INT2_G32
    from jaxcomp.formats.integer import INT2_G64 as INT2_G64
    from jaxcomp.formats.integer import INT3 as INT3
    from jaxcomp.formats.integer import INT3_G32 as INT3_G32
    from jaxcomp.formats.integer import INT3_G64 as INT3_G64
    from jaxcomp.formats.integer import INT3_G128 as INT3_G128
    from jaxcomp.formats.integer import INT4 as INT4
    from jaxcomp.formats.integer import INT4_G32 as INT4_G32
    from jaxcomp.formats.integer import INT4_G64 as INT4_G64
    from jaxcomp.formats.integer import INT4_G128 as INT4_G128
    from jaxcomp.formats.integer import INT8 as INT8
    from jaxcomp.formats.integer import INT8_G128 as INT8_G128
    from jaxcomp.formats.integer import TERNARY as TERNARY
    from jaxcomp.formats.integer import UINT2 as UINT2
    from jaxcomp.formats.integer import UINT2_G16 as UINT2_G16
    from jaxcomp.formats.integer import UINT2_G32 as UINT2_G32
    from jaxcomp.formats.integer import UINT2_G64 as UINT2_G64
    from jaxcomp.formats.integer import UINT3 as UINT3
    from jaxcomp.formats.integer import UINT3_G32 as UINT3_G32
    from jaxcomp.formats.integer import UINT3_G64 as UINT3_G64
    from jaxcomp.formats.integer import UINT3_G128 as UINT3_G128
    from jaxcomp.formats.integer import UINT4 as UINT4
    from jaxcomp.formats.integer import UINT4_G32 as UINT4_G32
    from jaxcomp.formats.integer import UINT4_G64 as UINT4_G64
    from jaxcomp.formats.integer import UINT4_G128 as UINT4_G128
    from jaxcomp.formats.integer import UINT8 as UINT8
    from jaxcomp.formats.leaf import Leaf as Leaf
    from jaxcomp.formats.leaf import dense as dense
    from jaxcomp.formats.low_rank import LowRank as LowRank
    from jaxcomp.formats.low_rank import low_rank as low_rank
    from jaxcomp.formats.product import dot as dot
    from jaxcomp.formats.product import take as take
    from jaxcomp.formats.qtensor import QTensor as QTensor
    from jaxcomp.formats.qtensor import quantize as quantize
    from jaxcomp.formats.sum import Sum as Sum
    from jaxcomp.formats.transformed import Transformed as Transformed

load_on_use(
    __name__,
    {
        "format": ("Format",),
        "integer": (
            *("INT2", "INT2_G32", "INT2_G64", "INT3", "INT3_G32", "INT3_G64", "INT3_G128"),
            *("INT4", "INT4_G32", "INT4_G64", "INT4_G128", "INT8", "INT8_G128", "TERNARY"),
            *("UINT2", "UINT2_G16", "UINT2_G32", "UINT2_G64"),
            *("UINT3", "UINT3_G32", "UINT3_G64", "UINT3_G128"),
            *("UINT4", "UINT4_G32", "UINT4_G64", "UINT4_G128", "UINT8"),
        ),
        "leaf": ("Leaf", "dense"),
        "low_rank": ("LowRank", "low_rank"),
        "product": ("dot", "take"),
        "qtensor": ("QTensor", "quantize"),
        "sum": ("Sum",),
        "transformed": ("Transformed",),
    },
)
