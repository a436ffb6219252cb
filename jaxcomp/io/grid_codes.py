"""QTensors [..., in] <-> the codes, scales and zeros that files keep, by NumPy.

Codes are from 0 on, one byte each, as in formats/format.py; scales and zeros are as a leaf stores
them, [..., groups]. Nothing is compiled, and nothing is rounded.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from jaxcomp.base import CorruptStream, UnsupportedInput
from jaxcomp.formats import format as grids
from jaxcomp.formats.float8 import FP8_E4M3
from jaxcomp.formats.format import Format
from jaxcomp.formats.nvfp4 import NVFP4
from jaxcomp.formats.qtensor import QTensor
from jaxcomp.formats.selected import Selected
from jaxcomp.io.bit_fields import pack_leaf, unpack_leaf
from jaxcomp.io.weights_file import on_device


def tensor(
    codes: np.ndarray, scales: Any, zeros: np.ndarray | None, format: Format, dtype: Any
) -> QTensor:
    """The QTensor [..., in] of codes from 0 on, one byte each, and stored scales and zeros."""
    size = codes.shape[-1]
    format = grids.with_tile(format, size)
    padded = -(-grids.padded_size(size, format) // format.tile) * format.tile
    if padded > size:
        codes = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, padded - size)])
    if format.bits == 8 and format.table is None:
        kept = (codes ^ np.uint8(128)).view(np.int8)
    elif format.bits == 8:
        kept = np.ascontiguousarray(codes)
    else:
        kept = pack_leaf(codes, format.bits, format.tile)
    parts = [
        part if part is None or isinstance(part, QTensor) else on_device(part)
        for part in (kept, scales, zeros)
    ]
    return QTensor(*parts, format, np.dtype(dtype), ((-1, size),))


def codes_of(leaf: QTensor) -> np.ndarray:
    """u8 [..., in]: the codes of a QTensor [..., in] from 0 on, without filling."""
    codes = np.asarray(leaf.codes)
    if codes.dtype == np.int8:
        codes = codes.view(np.uint8) ^ np.uint8(128)
    elif leaf.format.bits != 8:
        codes = unpack_leaf(codes, leaf.format.bits, leaf.format.tile)
    return codes[..., : leaf.packed[0][1]]


def plain(format: Format) -> Format:
    """The format without what does not change values: its tile and name, also of its scales."""
    scale = plain(format.scale) if isinstance(format.scale, Format) else format.scale
    return format._replace(tile=0, name="", pad=False, scale=scale)


# As others keep it: one float32 for all scales of e4m3.
NVFP4_F32 = NVFP4._replace(scale=FP8_E4M3._replace(group=None, scale="float32"))


class Grid(NamedTuple):
    """A matrix [out, in]: codes u8 [out, in], scales and zeros [out or 1, groups], its format.

    scales are a QTensor where the format says so. order: which group each input belongs to, i32
    [in], where groups are no runs of inputs; codes are in the order of inputs in any case.
    """

    codes: np.ndarray
    scales: Any
    zeros: np.ndarray | None
    format: Format
    order: np.ndarray | None


def grid_of(leaf: Any, name: str) -> Grid:
    """The parts of a leaf of two axes: a QTensor, or one whose inputs were sorted by `grouped`.

    A kernel [in, out], packed along the first axis, is turned over. UnsupportedInput for others.
    """
    order = index = None
    if isinstance(leaf, Selected) and leaf.index.size == leaf.packed[0][1] and leaf.ndim == 2:
        index = np.asarray(leaf.index).reshape(-1)
        group = leaf.inner.format.group
        order = np.zeros(len(index), np.int32)
        order[index] = np.arange(len(index)) // (group if group and group > 0 else len(index))
        leaf = leaf.inner
    if not isinstance(leaf, QTensor) or leaf.ndim != 2:
        raise UnsupportedInput(
            f"expected a QTensor of two axes in {ascii(name)}, got {type(leaf).__name__} of "
            f"{leaf.shape}; quantise leaf.dense(), or write arrays"
        )
    if leaf.packed[0][0] == -2:
        leaf = _turned(leaf)
    zeros = None if leaf.zeros is None or isinstance(leaf.zeros, QTensor) else leaf.zeros
    if zeros is None and leaf.zeros is not None:
        raise UnsupportedInput(f"expected zeros in an array, got a grid of them in {ascii(name)}")
    scales = leaf.scales if isinstance(leaf.scales, QTensor) else np.asarray(leaf.scales)
    zeros = None if zeros is None else np.asarray(zeros)
    codes = codes_of(leaf)
    if index is not None:
        codes = codes[:, np.argsort(index)]
    return Grid(codes, scales, zeros, leaf.format, order)


def grouped(codes: np.ndarray, order: np.ndarray | None, groups: int, make: Any) -> Any:
    """make(codes) where groups are runs of inputs; else Selected, with the inputs sorted by group.

    order: the group of each input, [in]. CorruptStream where groups are not all of one size.
    """
    size = codes.shape[-1]
    if order is None:
        return make(codes)
    good = order.shape == (size,) and order.dtype.kind in "iu" and size % groups == 0
    good = good and order.min() >= 0 and order.max() < groups  # before they are counted
    if not good or (np.bincount(order, minlength=groups) * groups != size).any():
        raise CorruptStream(
            f"expected {size} inputs in {groups} groups of one size, got others; fetch the file "
            "again"
        )
    if (np.diff(order) >= 0).all():
        return make(codes)
    index = np.argsort(order, kind="stable")
    inner = make(np.ascontiguousarray(codes[:, index]))
    kind = np.uint16 if size <= 1 << 16 else np.int32
    return Selected(inner, on_device(index.astype(kind)[None]), inner.packed)


def _turned(leaf: QTensor) -> QTensor:
    """A leaf [in, out] as one [out, in]."""

    def turn(part):
        if isinstance(part, QTensor):
            return _turned(part)
        return None if part is None else np.ascontiguousarray(np.asarray(part).T)

    packed = ((-1, leaf.packed[0][1]),)
    parts = {name: turn(getattr(leaf, name)) for name in ("codes", "scales", "zeros")}
    return dataclasses.replace(leaf, **parts, packed=packed)
