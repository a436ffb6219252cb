"""compressed-tensors checkpoints (llm-compressor, vLLM) <-> QTensors of the same codes and scales.

    pack-quantized        X.weight_packed i32 [out, ceil(in bits / 32)], a stream of bits along in;
                          X.weight_shape i64 [2]; X.weight_zero_point i32 [ceil(out bits / 32),
                          groups], a stream along out, of asymmetric ones
    int-quantized         X.weight i8 [out, in]; X.weight_zero_point i8 as the scales
    float-quantized       X.weight f8 [out, in], e4m3
    nvfp4-pack-quantized  X.weight_packed u8 [out, in / 2], the lower nibble first, X.weight_scale
                          e4m3 [out, in / 16], X.weight_global_scale f32 [1], which divides
    mxfp4-pack-quantized  X.weight_packed so, X.weight_scale u8 [out, in / 32], exponents

X.weight_scale is [out, groups], or [1] for one in all. Integers are kept plus 2**(bits - 1). A
weight becomes X.weight [out, in]. Nothing is rounded, but for one number of a weight of nvfp4: our
global scale multiplies, and 1 / (1 / x) may be off by the last bit of a float32.
"""

import math
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from jaxcomp.base import CorruptStream, UnsupportedInput
from jaxcomp.formats.float8 import FP8_E4M3
from jaxcomp.formats.format import Format
from jaxcomp.formats.microscaling import MXFP4
from jaxcomp.formats.nvfp4 import NVFP4
from jaxcomp.formats.qtensor import QTensor
from jaxcomp.io.bit_fields import pack_tiles, pack_words, unpack_tiles, unpack_words, words_for
from jaxcomp.io.gptq import read_modules, write_modules
from jaxcomp.io.grid_codes import NVFP4_F32, Grid, codes_of, grouped, plain, tensor

PARTS = (
    *("weight_scale", "weight_packed", "weight", "weight_shape", "weight_zero_point"),
    *("weight_g_idx", "weight_global_scale"),
)
E4M3 = np.dtype(ml_dtypes.float8_e4m3fn)


def from_compressed_tensors(
    arrays: Mapping[str, Any], config: Mapping[str, Any] | None = None, *, dtype: Any = None
) -> dict[str, Any]:
    """{X.weight: leaf [out, in]} of a checkpoint's arrays by name; others stay as they are.

    config: its quantization_config, needed only where shapes leave open how many bits a packed
    weight of fewer than 32 inputs has, or how large blocks are that share a scale (one in 192 rows
    may be cut). dtype: of the dense weights; by default that of the scales, and
    float32 for nvfp4 and mxfp4. CorruptStream where shapes contradict each other.
    """
    widths, blocks = _widths(config), _blocks(config)
    return read_modules(arrays, PARTS, lambda name, x: _leaf(name, x, widths, blocks, dtype))


def to_compressed_tensors(
    tree: Mapping[str, Any], *, packed: bool = True
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(arrays by name, quantization_config) of {X.weight: leaf}; arrays stay as they are.

    Leaves are QTensors of two axes: integers of 1 to 8 bits with any float scales and whole zeros
    (pack-quantized), FP8_E4M3 (float-quantized), NVFP4 and MXFP4. UnsupportedInput for others.
    packed: False writes integers of 8 bits as int-quantized.
    """
    formats: dict[str, tuple[str, dict[str, Any]]] = {}

    def parts(name, grid):
        made, kind, weights = _parts(name, grid, packed)
        formats[name.removesuffix(".weight")] = kind, weights
        return made

    arrays, _ = write_modules(tree, parts, lambda grids: None)
    others = [name.removesuffix(".weight") for name, x in arrays.items() if _is_linear(name, x)]
    return arrays, _config(formats, [name for name in others if name not in formats])


def _is_linear(name, x):
    return name.endswith(".weight") and getattr(x, "ndim", 0) == 2


def _leaf(
    name: str,
    parts: dict[str, np.ndarray],
    widths: set[int],
    blocks: set[tuple[int, int]],
    dtype: Any,
) -> Any:
    scale, weight = parts["weight_scale"], parts.get("weight_packed", parts.get("weight"))
    if weight is None or weight.ndim != 2 or scale.ndim > 2 or not weight.size or not scale.size:
        raise CorruptStream(
            f"expected a weight of two axes beside {name}.weight_scale, got "
            f"{None if weight is None else weight.shape} and scales {scale.shape}; read it as "
            "plain arrays"
        )
    if weight.dtype == np.uint8 and "weight_packed" in parts:
        return _fp4(name, weight, scale, parts.get("weight_global_scale"), dtype)
    zeros, bits = parts.get("weight_zero_point"), 8
    shape = parts.get("weight_shape")
    if weight.dtype == np.int32 and shape is not None and shape.dtype.kind in "iu":
        shape = tuple(int(n) for n in shape.reshape(-1))
        bits = _bits(name, weight, shape, widths)
        codes = unpack_words(weight, bits, shape[1])
    elif weight.dtype in (np.int8, E4M3):
        shape, codes = weight.shape, weight.view(np.uint8)
        codes = codes ^ np.uint8(128) if weight.dtype == np.int8 else codes
    else:
        raise UnsupportedInput(
            f"expected packed int32, int8, float8_e4m3fn or packed uint8, got {weight.dtype} in "
            f"{name}; convert it with the tool that wrote it"
        )
    scale = _scales(name, scale, shape, blocks)
    group = None if scale.size == 1 else -1 if scale.shape[1] == 1 else shape[1] // scale.shape[1]
    if weight.dtype == E4M3:
        format = FP8_E4M3._replace(group=group, scale=scale.dtype.name)
        if zeros is not None and zeros.astype(np.float32).any():
            raise UnsupportedInput(f"expected no zero points for float8 in {name}, got some")
        zeros = None
    else:
        format = Format(bits, group, offset=1 << (bits - 1), scale=scale.dtype.name)
    if zeros is not None:
        zeros = _zeros(name, zeros, bits, scale.shape)
        format = format._replace(zero="uint8", offset=0)
    order = parts.get("weight_g_idx")
    if order is not None and order.size and order.min() < 0:  # -1: not set
        order = None
    kept, dtype = (scale, zeros), dtype or scale.dtype
    return grouped(codes, order, scale.shape[1], lambda codes: tensor(codes, *kept, format, dtype))


def _scales(name, scale, shape, blocks):
    """[out or 1, groups], of one whole number of inputs each."""
    scale = scale.reshape(1, 1) if scale.size == 1 else scale
    if scale.ndim == 2 and scale.size > 1 and len(scale) < shape[0]:
        scale = _of_blocks(name, scale, shape, blocks)
    rows, groups = scale.shape if scale.ndim == 2 else (0, 1)
    good = rows == shape[0] or scale.size == 1
    if (
        not good
        or shape[1] % groups
        or not np.issubdtype(scale.dtype, np.floating)
        and (scale.dtype != ml_dtypes.bfloat16)
    ):
        raise CorruptStream(
            f"expected float scales [out, groups] or [1] of a weight {shape}, got {scale.dtype} "
            f"{scale.shape} in {name}; fetch the file again"
        )
    return np.ascontiguousarray(scale)


def _of_blocks(name, scale, shape, blocks):
    """[out, groups] of scales that blocks of rows and inputs share; the last may be cut.

    Without config blocks of powers of two that divide the weight: two in 192 may be 128 and 64.
    """
    fits = [b for b in blocks if scale.shape == (-(-shape[0] // b[0]), -(-shape[1] // b[1]))]
    if not blocks:
        whole = [n // k for n, k in zip(shape, scale.shape, strict=True)]
        clear = [
            n % k == 0 and (k == 1 or size & (size - 1) == 0)
            for n, k, size in zip(shape, scale.shape, whole, strict=True)
        ]
        fits = [tuple(whole)] if all(clear) else []
    if len(fits) != 1:
        raise CorruptStream(
            f"expected scales [out, groups], [1] or of blocks of a weight {shape}, got "
            f"{scale.shape} in {name}; pass config= of the checkpoint, with its block_structure"
        )
    rows, size = fits[0]
    group = math.gcd(size, shape[1])
    scale = np.repeat(scale, rows, 0)[: shape[0]]
    return np.repeat(scale, size // group, 1)[:, : shape[1] // group]


def _zeros(name, zeros, bits, shape):
    """u8 [out or 1, groups], from 0 on."""
    if zeros.dtype == np.int32 and zeros.shape == (words_for(shape[0], bits), shape[1]):
        return np.ascontiguousarray(unpack_words(np.ascontiguousarray(zeros.T), bits, shape[0]).T)
    if zeros.size == math.prod(shape) and zeros.dtype == np.int8:
        return (zeros.reshape(shape).astype(np.int16) + (1 << (bits - 1))).astype(np.uint8)
    raise CorruptStream(
        f"expected a zero for each of the scales {shape}, got {zeros.dtype} {zeros.shape} in "
        f"{name}; fetch the file again"
    )


def _bits(name, weight, shape, widths):
    good = len(shape) == 2 and min(shape) > 0 and shape[0] == len(weight)
    fits = [b for b in range(1, 9) if good and words_for(shape[1], b) == weight.shape[1]]
    found = fits if len(fits) == 1 else [b for b in fits if b in widths]
    if len(found) != 1:
        raise CorruptStream(
            f"expected {name}.weight_packed of 1 to 8 bits for {shape}, got {weight.shape}, which "
            f"is {found or 'none'}; pass config= of the checkpoint"
        )
    return found[0]


def _widths(config):
    return {w["num_bits"] for w in _weights(config) if type(w.get("num_bits")) is int}


def _blocks(config):
    found = [w.get("block_structure") for w in _weights(config)]
    found = [x.split("x") if isinstance(x, str) else x for x in found]
    pairs = [x for x in found if isinstance(x, list) and len(x) == 2]
    good = [[int(n) for n in x if str(n).isdecimal()] for x in pairs]
    return {tuple(x) for x in good if len(x) == 2 and all(0 < n < 1 << 32 for n in x)}


def _weights(config):
    """The arguments of weights of all groups that a stranger's config has."""
    groups = (config or {}).get("config_groups")
    groups = groups.values() if isinstance(groups, dict) else ()
    found = [group.get("weights") for group in groups if isinstance(group, dict)]
    return [w for w in found if isinstance(w, dict)]


def _fp4(name, packed, scale, shared, dtype):
    codes = unpack_tiles(packed, 4, 2)
    group = 16 if scale.dtype == E4M3 else 32
    if scale.shape != (len(codes), codes.shape[1] // group) or codes.shape[1] % group:
        raise CorruptStream(
            f"expected scales {(len(codes), codes.shape[1] // group)} in {name}, got {scale.shape}"
        )
    if scale.dtype == np.uint8:
        return tensor(codes, scale, None, MXFP4, dtype or np.float32)
    good = scale.dtype == E4M3 and shared is not None and shared.size == 1
    if not good or not np.isfinite(shared.astype(np.float32)).all() or not shared.any():
        raise CorruptStream(
            f"expected scales of e4m3 and a finite {name}.weight_global_scale, or exponents, got "
            f"{scale.dtype} and {shared!r:.40}; fetch the file again"
        )
    whole = (np.float32(1) / shared.astype(np.float32)).reshape(1, 1)
    scales = tensor(scale.view(np.uint8), whole, None, NVFP4_F32.scale, np.float32)
    return tensor(codes, scales, None, NVFP4_F32, dtype or np.float32)


def _parts(
    name: str, grid: Grid, packed: bool
) -> tuple[dict[str, np.ndarray], str, dict[str, Any]]:
    """(arrays, the format's name, the arguments of its weights)."""
    format, codes = plain(grid.format), grid.codes
    args: dict[str, Any] = {"num_bits": format.bits, "type": "float", "symmetric": True}
    args |= {"strategy": "group", "group_size": format.group, "dynamic": False}
    if format == plain(MXFP4) and grid.order is None:
        made = {"weight_packed": pack_tiles(codes, 4, 2), "weight_scale": grid.scales}
        return made, "mxfp4-pack-quantized", args | {"scale_dtype": "torch.uint8"}
    nested = isinstance(grid.scales, QTensor)
    if nested and format._replace(scale="") == plain(NVFP4)._replace(scale=""):
        return _nvfp4(name, grid, args)
    if nested or format.scale == "e8m0" or format.zero not in (None, "uint8"):
        raise _refused(name, format)
    scale = np.ascontiguousarray(grid.scales)
    if format.group is None:
        scale, args["strategy"], args["group_size"] = scale.reshape(1), "tensor", None
    elif format.group == -1 or scale.shape[1] == 1:
        args["strategy"], args["group_size"] = "channel", None
    made = {"weight_scale": scale}
    if format.table == FP8_E4M3.table and not format.offset and grid.order is None:
        return {"weight": codes.view(E4M3)} | made, "float-quantized", args
    middle = 1 << max(format.bits - 1, 0)
    if format.table or not 1 <= format.bits <= 8 or (not format.zero and format.offset != middle):
        raise _refused(name, format)
    args |= {"type": "int", "symmetric": grid.zeros is None}
    if format.bits == 8 and not packed and grid.order is None:
        if grid.zeros is not None:
            made["weight_zero_point"] = (grid.zeros ^ np.uint8(128)).view(np.int8)
        return made | {"weight": (codes ^ np.uint8(128)).view(np.int8)}, "int-quantized", args
    made |= {
        "weight_packed": pack_words(codes, format.bits),
        "weight_shape": np.asarray(codes.shape, np.int64),
    }
    if grid.zeros is not None:
        zeros = np.ascontiguousarray(grid.zeros.T)
        made["weight_zero_point"] = np.ascontiguousarray(pack_words(zeros, format.bits).T)
    if grid.order is not None:
        made["weight_g_idx"], args["actorder"] = grid.order, "group"
    return made, "pack-quantized", args


def _nvfp4(name, grid, args):
    scales = grid.scales
    whole = np.asarray(scales.scales).astype(np.float32).reshape(-1)
    if whole.size != 1 or not whole[0] or scales.format.table != FP8_E4M3.table or scales.zeros:
        raise _refused(name, grid.format)
    made = {
        "weight_packed": pack_tiles(grid.codes, 4, 2),
        "weight_scale": codes_of(scales).view(E4M3),
        "weight_global_scale": np.float32(1) / whole,
    }
    args = args | {"strategy": "tensor_group", "scale_dtype": "torch.float8_e4m3fn"}
    return made, "nvfp4-pack-quantized", args


def _refused(name, format):
    return UnsupportedInput(
        f"expected integers of 1 to 8 bits, FP8_E4M3, NVFP4 or MXFP4, got {format} in "
        f"{ascii(name)}; quantise leaf.dense() by one of these, or write arrays"
    )


def _config(formats: dict[str, tuple[str, dict[str, Any]]], ignore: list[str]) -> dict[str, Any]:
    """As config.json has it: a group for each format, by names of modules where there are more."""
    kinds: dict[str, tuple[str, dict[str, Any], list[str]]] = {}
    for name, (kind, weights) in formats.items():
        key = f"{kind} {sorted(weights.items(), key=str)}"
        kinds.setdefault(key, (kind, weights, []))[2].append(name)
    groups = {}
    for i, (kind, weights, names) in enumerate(kinds.values()):
        groups[f"group_{i}"] = {
            "targets": ["Linear"] if len(kinds) == 1 else names,
            "weights": weights,
            "input_activations": None,
            "output_activations": None,
            "format": kind,
        }
    named = {group["format"] for group in groups.values()}
    return {
        "quant_method": "compressed-tensors",
        "format": named.pop() if len(named) == 1 else "mixed-precision" if named else "dense",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": ignore,
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }
