"""Compressed leaves: number formats, packed tensors, and the product with them."""

from typing import TYPE_CHECKING

from jaxcomp.lazy import load_on_use

if TYPE_CHECKING:
    from jaxcomp.formats.additive import additive as additive
    from jaxcomp.formats.codebook import Codebook as Codebook
    from jaxcomp.formats.codebook import codebook as codebook
    from jaxcomp.formats.convolution import conv as conv
    from jaxcomp.formats.float4 import FP4 as FP4
    from jaxcomp.formats.float4 import FP4_G32 as FP4_G32
    from jaxcomp.formats.float8 import FP8_E4M3 as FP8_E4M3
    from jaxcomp.formats.float8 import FP8_E4M3_TENSOR as FP8_E4M3_TENSOR
    from jaxcomp.formats.float8 import FP8_E5M2 as FP8_E5M2
    from jaxcomp.formats.float8 import FP8_E5M2_TENSOR as FP8_E5M2_TENSOR
    from jaxcomp.formats.format import Format as Format
    from jaxcomp.formats.grid_choice import GridChoice as GridChoice
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
    from jaxcomp.formats.latent import Latent as Latent
    from jaxcomp.formats.latent import freeze as freeze
    from jaxcomp.formats.leaf import Leaf as Leaf
    from jaxcomp.formats.leaf import dense as dense
    from jaxcomp.formats.lossless import Lossless as Lossless
    from jaxcomp.formats.low_rank import LowRank as LowRank
    from jaxcomp.formats.low_rank import low_rank as low_rank
    from jaxcomp.formats.microscaling import MXFP4 as MXFP4
    from jaxcomp.formats.microscaling import MXFP8 as MXFP8
    from jaxcomp.formats.microscaling import MXFP8_E5M2 as MXFP8_E5M2
    from jaxcomp.formats.normal_float import NF4 as NF4
    from jaxcomp.formats.normal_float import NF4_DOUBLE as NF4_DOUBLE
    from jaxcomp.formats.nvfp4 import NVFP4 as NVFP4
    from jaxcomp.formats.outlier_victim import OutlierVictim as OutlierVictim
    from jaxcomp.formats.product import dot as dot
    from jaxcomp.formats.product import take as take
    from jaxcomp.formats.qtensor import QTensor as QTensor
    from jaxcomp.formats.qtensor import quantize as quantize
    from jaxcomp.formats.selected import Selected as Selected
    from jaxcomp.formats.shardings import shardings as shardings
    from jaxcomp.formats.sparse_nm import SparseNM as SparseNM
    from jaxcomp.formats.sparse_nm import sparse_nm as sparse_nm
    from jaxcomp.formats.sparse_rows import SparseRows as SparseRows
    from jaxcomp.formats.sparse_rows import sparse_rows as sparse_rows
    from jaxcomp.formats.sum import Sum as Sum
    from jaxcomp.formats.transformed import Transformed as Transformed

load_on_use(
    __name__,
    {
        "format": ("Format",),
        "additive": ("additive",),
        "codebook": ("Codebook", "codebook"),
        "convolution": ("conv",),
        "float4": ("FP4", "FP4_G32"),
        "float8": ("FP8_E4M3", "FP8_E4M3_TENSOR", "FP8_E5M2", "FP8_E5M2_TENSOR"),
        "grid_choice": ("GridChoice",),
        "microscaling": ("MXFP4", "MXFP8", "MXFP8_E5M2"),
        "normal_float": ("NF4", "NF4_DOUBLE"),
        "nvfp4": ("NVFP4",),
        "outlier_victim": ("OutlierVictim",),
        "shardings": ("shardings",),
        "sparse_nm": ("SparseNM", "sparse_nm"),
        "sparse_rows": ("SparseRows", "sparse_rows"),
        "integer": (
            *("INT2", "INT2_G32", "INT2_G64", "INT3", "INT3_G32", "INT3_G64", "INT3_G128"),
            *("INT4", "INT4_G32", "INT4_G64", "INT4_G128", "INT8", "INT8_G128", "TERNARY"),
            *("UINT2", "UINT2_G16", "UINT2_G32", "UINT2_G64"),
            *("UINT3", "UINT3_G32", "UINT3_G64", "UINT3_G128"),
            *("UINT4", "UINT4_G32", "UINT4_G64", "UINT4_G128", "UINT8"),
        ),
        "latent": ("Latent", "freeze"),
        "leaf": ("Leaf", "dense"),
        "lossless": ("Lossless",),
        "low_rank": ("LowRank", "low_rank"),
        "product": ("dot", "take"),
        "qtensor": ("QTensor", "quantize"),
        "selected": ("Selected",),
        "sum": ("Sum",),
        "transformed": ("Transformed",),
    },
)
