"""AWQ checkpoints (AutoAWQ, the GEMM order) <-> QTensors with zeros.

    X.qweight i32 [in, out / 8]       codes of 4 bits from 0 on, eight outputs to a word
    X.qzeros  i32 [groups, out / 8]   zeros, so too
    X.scales  f16 [groups, out]       weight = (code - zero) * scale

A word holds the outputs 0, 2, 4, 6, 1, 3, 5, 7 of its eight, the first in its lowest bits. A weight
becomes X.weight [out, in]. Nothing is rounded.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxcomp.base import CorruptStream, UnsupportedInput
from jaxcomp.io.bit_fields import pack_words, unpack_words
from jaxcomp.io.gptq import one_format, read_modules, scales_and_zeros, uniform, write_modules
from jaxcomp.io.grid_codes import Grid

BITS = 4
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
PARTS = ("qweight", "qzeros", "scales")


def from_awq(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """{X.weight: leaf [out, in]} of a checkpoint's arrays by name; others stay as they are."""
    return read_modules(arrays, PARTS, _leaf)


def to_awq(tree: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(arrays by name, quantization_config) of {X.weight: leaf}; arrays stay as they are.

    Leaves are QTensors of integers of 4 bits, symmetric ones too, in one format. UnsupportedInput
    for scales that float16 does not hold, and outputs that are no multiple of 8.
    """
    return write_modules(tree, _parts, _config)


def _leaf(name: str, parts: dict[str, np.ndarray]) -> Any:
    if missing := [part for part in PARTS if part not in parts]:
        raise CorruptStream(f"expected {', '.join(missing)} beside {name}.qweight, got none")
    qweight, qzeros, scales = (parts[part] for part in PARTS)
    good = qweight.ndim == qzeros.ndim == scales.ndim == 2 and scales.size and qweight.size
    good = good and qweight.dtype == qzeros.dtype == np.int32
    good = good and qweight.shape[1] * 8 == qzeros.shape[1] * 8 == scales.shape[1]
    if not good or len(qzeros) != len(scales) or len(qweight) % len(scales):
        raise CorruptStream(
            f"expected AWQ arrays of 4 bits in int32, got qweight {qweight.dtype} {qweight.shape}, "
            f"qzeros {qzeros.shape}, scales {scales.shape} in {name}; name the layout it has"
        )
    codes, zeros = (_sorted(x, scales.shape[1]) for x in (qweight, qzeros))
    return uniform(np.ascontiguousarray(codes.T), scales, zeros.T, BITS, None)


def _sorted(words, count):
    """i32 [rows, out / 8] -> u8 [rows, out] in the order of outputs."""
    stored = unpack_words(words, BITS, count).reshape(len(words), -1, 8)
    codes = np.empty_like(stored)
    codes[:, :, list(ORDER)] = stored
    return codes.reshape(len(words), -1)


def _words(codes):
    """The inverse of _sorted."""
    stored = codes.reshape(len(codes), -1, 8)[:, :, list(ORDER)]
    return pack_words(stored.reshape(len(codes), -1), BITS)


def _parts(name: str, grid: Grid) -> dict[str, np.ndarray]:
    if grid.format.bits != BITS or len(grid.codes) % 8 or grid.order is not None:
        raise UnsupportedInput(
            f"expected 4 bits, outputs in eights, inputs in their order, got {grid.format} of "
            f"{grid.codes.shape} in {ascii(name)}; write GPTQ"
        )
    scales, zeros = scales_and_zeros(name, grid)
    return {"qweight": _words(np.ascontiguousarray(grid.codes.T)), "qzeros": _words(zeros)} | {
        "scales": scales
    }


def _config(grids: dict[str, Grid]) -> dict[str, Any]:
    bits, group, _ = one_format(grids)
    return {
        "quant_method": "awq",
        "bits": bits,
        "group_size": group,
        "zero_point": True,
        "version": "gemm",
        "modules_to_not_convert": None,
    }
