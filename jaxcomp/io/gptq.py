"""GPTQ checkpoints (GPTQModel, AutoGPTQ) <-> QTensors with zeros.

    X.qweight i32 [in bits / 32, out]       codes from 0 on, a stream of bits along in
    X.qzeros  i32 [groups, out bits / 32]   zeros, a stream along out; less one in version 1
    X.scales  f16 [groups, out]             weight = (code - zero) * scale
    X.g_idx   i32 [in]                      the group of each input

of 2, 3, 4 or 8 bits; three bits straddle words. Version 1 ("checkpoint_format": "gptq") stores a
zero less one, modulo 2**bits, so that 0 is kept as all ones. A weight becomes X.weight [out, in];
inputs that were grouped by activation order are sorted (formats.Selected). Nothing is rounded.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxcomp.base import CorruptStream, UnsupportedInput
from jaxcomp.formats.format import Format
from jaxcomp.formats.leaf import Leaf
from jaxcomp.io.bit_fields import pack_words, unpack_words, words_for
from jaxcomp.io.grid_codes import Grid, grid_of, grouped, tensor

BITS = (2, 3, 4, 8)
PARTS = ("qweight", "qzeros", "scales", "g_idx")


def from_gptq(arrays: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """{X.weight: leaf [out, in]} of a checkpoint's arrays by name; others stay as they are.

    config: its quantization_config, where checkpoint_format "gptq_v2" is version 2, all else is
    version 1. Bits and groups are read off the shapes, and bits off config where outputs are so few
    that several would do. CorruptStream where those contradict each other.
    """
    config = config or {}
    version = 2 if config.get("checkpoint_format") == "gptq_v2" else 1
    said = config.get("bits")
    return read_modules(arrays, PARTS, lambda name, parts: _leaf(name, parts, version, said))


def to_gptq(tree: Mapping[str, Any], *, version: int = 1) -> tuple[dict[str, Any], dict[str, Any]]:
    """(arrays by name, quantization_config) of {X.weight: leaf}; arrays stay as they are.

    Leaves are QTensors of 2, 3, 4 or 8 bits of one format, symmetric ones too, or what from_gptq
    made. Scales are rounded to float16 where they are not in it: UnsupportedInput where that
    changes one. 32 must divide inputs and outputs times bits.
    """
    if version not in (1, 2):
        raise UnsupportedInput(f"expected version 1 or 2, got {version!r}; choose one")
    return write_modules(tree, lambda name, grid: _parts(name, grid, version), _config(version))


def read_modules(arrays, parts, make):
    """make(X, {part: array}) under X.weight for every module X that has the first of the parts."""
    ends = f".{parts[0]}"
    modules = {name.removesuffix(ends) for name in arrays if name.endswith(ends)}
    tree, done = {}, set()
    for name, x in arrays.items():
        module, _, part = name.rpartition(".")
        if module not in modules or part not in parts:
            tree[name] = x
        elif module not in done:
            done.add(module)
            given = {
                p: np.asarray(arrays[f"{module}.{p}"]) for p in parts if f"{module}.{p}" in arrays
            }
            tree[f"{module}.weight"] = make(module, given)
    return tree


def write_modules(tree, parts, config):
    """({X.part: array}, config of all grids) of {X.weight: leaf}."""
    arrays, grids = {}, {}
    for name, x in tree.items():
        if not isinstance(x, Leaf):
            arrays[name] = x
            continue
        module = name.removesuffix(".weight")
        if module == name:
            raise UnsupportedInput(
                f"expected compressed weights named X.weight, got {ascii(name)[:60]}; rename it"
            )
        grids[module] = grid_of(x, name)
        arrays |= {f"{module}.{part}": y for part, y in parts(name, grids[module]).items()}
    return arrays, config(grids)


def _leaf(name: str, parts: dict[str, np.ndarray], version: int, said: Any) -> Any:
    if missing := [part for part in PARTS[:3] if part not in parts]:
        raise CorruptStream(f"expected {', '.join(missing)} beside {name}.qweight, got none")
    qweight, qzeros, scales = (parts[part] for part in PARTS[:3])
    bits = _bits(name, qweight, qzeros, scales, parts.get("g_idx"), said)
    size, outputs, groups = len(qweight) * 32 // bits, scales.shape[1], scales.shape[0]
    if size % groups:
        raise CorruptStream(
            f"expected {groups} groups of {size} inputs in {name}, got others; fetch the file again"
        )
    codes = unpack_words(np.ascontiguousarray(qweight.T), bits, size)
    zeros = unpack_words(qzeros, bits, outputs).T
    if version == 1:
        zeros = zeros + np.uint8(1) & np.uint8((1 << bits) - 1)
    return uniform(codes, scales, zeros, bits, parts.get("g_idx"))


def uniform(codes, scales, zeros, bits, order):
    """The leaf of codes [out, in], scales [groups, out] and zeros [out, groups]."""
    format = Format(bits, codes.shape[1] // len(scales), scale=scales.dtype.name, zero="uint8")
    if (zeros == 1 << (bits - 1)).all():  # symmetric: the zeros need not be kept
        format, zeros = format._replace(zero=None, offset=1 << (bits - 1)), None
    parts = [None if x is None else np.ascontiguousarray(x) for x in (scales.T, zeros)]
    return grouped(
        codes, order, len(scales), lambda codes: tensor(codes, *parts, format, scales.dtype)
    )


def _bits(name, qweight, qzeros, scales, order, said):
    fits = []
    if qweight.ndim == qzeros.ndim == scales.ndim == 2 and qweight.size and scales.size:
        if qweight.dtype == qzeros.dtype == np.int32 and qweight.shape[1] == scales.shape[1]:
            shapes = {bits: (len(scales), words_for(scales.shape[1], bits)) for bits in BITS}
            fits = [b for b in BITS if qzeros.shape == shapes[b] and len(qweight) * 32 % b == 0]
    sizes = {bits: (len(qweight) * 32 // bits,) for bits in fits}
    if len(fits) > 1 and order is not None:
        fits = [bits for bits in fits if order.shape == sizes[bits]]
    if len(fits) > 1:
        fits = [bits for bits in fits if bits == said]
    if len(fits) == 1:
        return fits[0]
    raise CorruptStream(
        f"expected GPTQ arrays of {BITS} bits in int32, got qweight {qweight.dtype} {qweight.shape}"
        f", qzeros {qzeros.shape}, scales {scales.shape} in {name}; name the layout it has, and "
        "its bits in config"
    )


def _parts(name: str, grid: Grid, version: int) -> dict[str, np.ndarray]:
    bits, size = grid.format.bits, grid.codes.shape[1]
    if bits not in BITS or size * bits % 32 or len(grid.codes) * bits % 32:
        raise UnsupportedInput(
            f"expected {BITS} bits, and inputs and outputs that fill words of 32, got {grid.format}"
            f" of {grid.codes.shape} in {ascii(name)}; quantise leaf.dense() so, or write arrays"
        )
    scales, zeros = scales_and_zeros(name, grid)
    if version == 1:
        zeros = zeros - np.uint8(1) & np.uint8((1 << bits) - 1)
    order = np.arange(size, dtype=np.int32) // (size // len(scales))
    return {
        "qweight": np.ascontiguousarray(pack_words(grid.codes, bits).T),
        "qzeros": pack_words(zeros, bits),
        "scales": scales,
        "g_idx": order if grid.order is None else grid.order,
    }


def scales_and_zeros(name: str, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """f16 and u8 [groups, out]. UnsupportedInput for other grids, and scales that would change."""
    format, middle = grid.format, 1 << max(grid.format.bits - 1, 0)
    plain = format.table is None and format.zero in (None, "uint8")
    if (
        not plain
        or isinstance(format.scale, Format)
        or (not format.zero and format.offset != middle)
    ):
        raise UnsupportedInput(
            f"expected integers with scales and whole zeros, got {format} in {ascii(name)}; "
            "quantise leaf.dense() by jc.formats.UINT4_G128, say"
        )
    wide = np.asarray(grid.scales, np.float32) if format.scale != "e8m0" else None
    with np.errstate(over="ignore"):
        narrow = None if wide is None else wide.astype(np.float16)
    if narrow is None or not np.array_equal(narrow.astype(np.float32), wide, equal_nan=True):
        raise UnsupportedInput(
            f"expected scales that float16 holds, got {format.scale} in {ascii(name)}; quantise "
            "with format._replace(scale='float16')"
        )
    groups = wide.shape[1] if format.group not in (None, -1) else 1
    scales = np.broadcast_to(narrow, (len(grid.codes), groups)).T
    zeros = np.full(scales.shape, middle, np.uint8) if grid.zeros is None else grid.zeros.T
    zeros = np.broadcast_to(zeros, scales.shape)
    if (zeros >= 1 << format.bits).any():
        raise UnsupportedInput(f"expected zeros below {1 << format.bits} in {ascii(name)}")
    return np.ascontiguousarray(scales), np.ascontiguousarray(zeros)


def one_format(grids: dict[str, Grid]) -> tuple[int, int, bool]:
    """(bits, group size or -1, symmetric) of all. UnsupportedInput where there are several."""
    kinds = {
        (grid.format.bits, grid.format.group or -1, grid.format.zero is None)
        for grid in grids.values()
    }
    whole = {kind[:2] for kind in kinds}
    if not whole:
        raise UnsupportedInput(
            "expected compressed weights, got arrays alone; quantise them by jc.weights.compress, "
            "or jaxcomp compress --format int4-g128, or write plain arrays"
        )
    if len(whole) != 1:
        each = " and ".join(f"{bits} bits in groups of {group}" for bits, group in sorted(whole))
        raise UnsupportedInput(
            f"expected weights of one format, got {each}; write compressed-tensors, which has "
            "several in one file"
        )
    return *whole.pop(), all(symmetric for *_, symmetric in kinds)


def _config(version):
    def config(grids: dict[str, Grid]) -> dict[str, Any]:
        bits, group, symmetric = one_format(grids)
        return {
            "quant_method": "gptq",
            "bits": bits,
            "group_size": group,
            "desc_act": any(grid.order is not None for grid in grids.values()),
            "sym": symmetric,
            "lm_head": any("lm_head" in name for name in grids),
            "checkpoint_format": "gptq" if version == 1 else "gptq_v2",
        }

    return config
