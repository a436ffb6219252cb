"""Tensors of GGUF as leaves: where our formats hold the same codes and scales, else as blocks.

    Q4_0 Q5_0 Q8_0 IQ4_NL    a QTensor in groups of 32 with float16 scales
    Q3_K Q6_K IQ4_XS         groups of 16 or 32, whose scales are a QTensor in groups of 256 values
    TQ1_0 TQ2_0              ternary in groups of 256
    MXFP4 NVFP4              microscaling; the scales of NVFP4 times a global scale of 1
    all others               GGUFBlocks: the bytes as they are, and `dense` to decode them

Kinds with minima have no exact place in a QTensor, since -m / d is no number of few bits. A leaf is
made only where it gives the same bytes back (an MXFP4 exponent of 0 or 255, an NVFP4 scale from 127
on, or bytes of TQ1_0 that stand for no five digits, stay blocks), and its dense weights are the
values that `decode` gives.
"""

import dataclasses
from typing import Any

import numpy as np

from jaxcomp.base import CorruptStream, UnsupportedInput
from jaxcomp.formats.format import Format
from jaxcomp.formats.microscaling import MXFP4
from jaxcomp.formats.qtensor import QTensor
from jaxcomp.io.gguf_blocks import KINDS, UNEVEN, decode, join, kind, split
from jaxcomp.io.gguf_rounding import encode
from jaxcomp.io.grid_codes import NVFP4_F32, codes_of, plain, tensor
from jaxcomp.kernels.packing import TRITS

# (number in files, values, bytes) of blocks that are carried as they are, and not decoded.
CARRIED = {
    **{"IQ2_XXS": (16, 256, 66), "IQ2_XS": (17, 256, 74), "IQ3_XXS": (18, 256, 98)},
    **{"IQ1_S": (19, 256, 50), "IQ3_S": (21, 256, 110), "IQ2_S": (22, 256, 82)},
    "IQ1_M": (29, 256, 56),
}


def _super(bits: int, group: int, scale_bits: int, **options: Any) -> Format:
    scale = Format(scale_bits, 256 // group, offset=1 << (scale_bits - 1), scale="float16")
    return Format(bits, group, scale=scale, **options)


_LEVELS = tuple(float(x) for x in UNEVEN)
FORMATS = {
    "Q4_0": Format(4, 32, offset=8, scale="float16"),
    "Q5_0": Format(5, 32, offset=16, scale="float16"),
    "Q8_0": Format(8, 32, offset=128, scale="float16"),
    "Q3_K": _super(3, 16, 6, offset=4),
    "Q6_K": _super(6, 16, 8, offset=32),
    "IQ4_NL": Format(4, 32, _LEVELS, scale="float16"),
    "IQ4_XS": _super(4, 32, 6, table=_LEVELS),
    "TQ1_0": Format(TRITS, 256, (0.0, 1.0, 2.0), offset=1, scale="float16"),
    "TQ2_0": Format(2, 256, offset=1, scale="float16"),
    "MXFP4": MXFP4,
    "NVFP4": NVFP4_F32,
}


def block_shape(name: str) -> tuple[int, int]:
    """(values, bytes) of a block, also of kinds that are only carried."""
    return CARRIED[name][1:] if name in CARRIED else (kind(name).values, kind(name).nbytes)


@dataclasses.dataclass(frozen=True, eq=False)
class GGUFBlocks:
    """A tensor of a GGUF file as its bytes: kind by name, data u8 [*axes, bytes of a row].

    np.asarray decodes it, as `dense` does; it is no pytree node and no leaf of a model. `data`
    holds each row of the last axis as blocks, one after another.
    """

    kind: str
    data: np.ndarray

    def __post_init__(self):
        _, nbytes = block_shape(self.kind)
        good = isinstance(self.data, np.ndarray) and self.data.dtype == np.uint8
        if not good or not self.data.ndim or self.data.shape[-1] % nbytes:
            raise CorruptStream(
                f"expected rows of whole blocks of {nbytes} bytes for {self.kind}, got "
                f"{getattr(self.data, 'shape', None)}; fetch the file again"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        values, nbytes = block_shape(self.kind)
        return *self.data.shape[:-1], self.data.shape[-1] // nbytes * values

    @property
    def nbytes(self) -> int:
        return self.data.nbytes

    def rows(self) -> np.ndarray:
        """u8 [blocks, bytes of one]."""
        return self.data.reshape(-1, block_shape(self.kind)[1])

    def dense(self) -> np.ndarray:
        """The float32 values. UnsupportedInput for kinds that are only carried."""
        if self.kind in CARRIED:
            raise UnsupportedInput(
                f"expected a kind that is decoded ({', '.join(KINDS)}), got {self.kind}; it can be "
                "written to GGUF again as it is; requantise it with the tool that wrote it"
            )
        return decode(self.rows(), self.kind).reshape(self.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.dense().astype(dtype or np.float32, copy=False)


def round_to_gguf(x: Any, name: str) -> GGUFBlocks:
    """An array rounded to blocks along its last axis, whose length is a multiple of a block's."""
    x, made = np.asarray(x), kind(name)
    if not x.ndim or x.shape[-1] % made.values or not x.size:
        raise UnsupportedInput(
            f"expected a last axis in blocks of {made.values} for {name}, got {x.shape}; choose "
            "Q8_0 or another of 32, or keep the array as it is"
        )
    rows = encode(x.reshape(-1, made.values), name)
    return GGUFBlocks(name, rows.reshape(*x.shape[:-1], -1))


def leaf_of(blocks: GGUFBlocks) -> "QTensor | GGUFBlocks":
    """The QTensor [..., in] that has these codes and scales, or the blocks where none has."""
    name, shape = blocks.kind, blocks.shape
    if name not in FORMATS or len(shape) < 2 or not blocks.data.size:
        return blocks
    parts = split(blocks.rows(), name)
    if name == "MXFP4" and np.isin(parts["e"], (0, 255)).any():
        return blocks
    if name == "TQ1_0" and not np.array_equal(join(parts, name), blocks.rows()):
        return blocks
    if name == "NVFP4":
        if (parts["n"] >= 127).any():
            return blocks
        parts["s"], parts["d"] = parts["n"], np.ones(1, np.float32).reshape((1,) * len(shape))
    format, lead = FORMATS[name], shape[:-1]
    scales = parts["e" if name == "MXFP4" else "d"]
    scales = scales if name == "NVFP4" else scales.reshape(*lead, -1)
    if isinstance(format.scale, Format):
        scales = tensor(parts["s"].reshape(*lead, -1), scales, None, format.scale, np.float32)
    return tensor(parts["codes"].reshape(shape), scales, None, format, np.float32)


def kind_of(leaf: QTensor) -> str:
    """The kind of block with the codes and scales of a leaf. UnsupportedInput where none has."""
    format = plain(leaf.format)
    name = next((name for name, mine in FORMATS.items() if plain(mine) == format), None)
    size = leaf.shape[-1]
    if name is None or tuple(axis for axis, _ in leaf.packed) != (-1,) or size % kind(name).values:
        raise UnsupportedInput(
            f"expected a QTensor [..., in] that a kind of block holds ({', '.join(FORMATS)}), got "
            f"{leaf.format} of {leaf.shape}; round leaf.dense() by round_to_gguf(x, 'Q4_K'), say"
        )
    return name


def blocks_of(leaf: QTensor) -> GGUFBlocks:
    """The blocks of the same codes and scales. UnsupportedInput where no kind has them."""
    name, size = kind_of(leaf), leaf.shape[-1]
    made, parts = kind(name), {"codes": codes_of(leaf).reshape(-1, kind(name).values)}
    scales = leaf.scales
    if isinstance(scales, QTensor):
        parts["s"] = codes_of(scales).reshape(len(parts["codes"]), -1)
        scales = scales.scales
    if name == "NVFP4":
        parts["n"] = parts["s"]
        if (np.asarray(scales) != 1).any():
            raise UnsupportedInput(
                "expected a global scale of 1 for NVFP4 blocks, got another: GGUF has it in a "
                "tensor of its own; round leaf.dense() by round_to_gguf(x, 'Q4_K'), say"
            )
    scales = np.asarray(scales).reshape(-1)
    parts["e" if name == "MXFP4" else "d"] = scales
    rows = join(parts, name)
    return GGUFBlocks(name, rows.reshape(*leaf.shape[:-1], size // made.values * made.nbytes))
