"""Models between the files of several tools: what one layout holds, as another holds it.

    gguf                .gguf                        load_gguf, save_gguf
    jxc                 .jxc                         load_weights or load_tensors, save_weights
    jaxcomp             .safetensors with our index  load_safetensors, save_safetensors
    compressed-tensors  .safetensors, and a quantization_config: in config.json of a folder, and in
    gptq, awq           the metadata of a file
    plain               .safetensors of arrays alone

Weights of integers and scales go over as the same integers and scales wherever the other side has
them, and are refused, or rounded again where that was asked for, wherever it has not. Names stay
as they are. A model is read whole: it needs the memory of its codes.
"""

import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

import jaxcomp.formats as formats
from jaxcomp.base import CorruptStream, UnsupportedInput
from jaxcomp.coding.atomic import write_atomic
from jaxcomp.formats.format import Format
from jaxcomp.formats.leaf import Leaf
from jaxcomp.formats.qtensor import QTensor, quantize
from jaxcomp.io.awq import from_awq, to_awq
from jaxcomp.io.compressed_tensors import from_compressed_tensors, to_compressed_tensors
from jaxcomp.io.gguf import (
    gguf_metadata,
    load_gguf,
    pack_metadata,
    save_gguf,
    unpack_metadata,
)
from jaxcomp.io.gguf_blocks import KINDS
from jaxcomp.io.gguf_leaves import GGUFBlocks, blocks_of, round_to_gguf
from jaxcomp.io.gptq import from_gptq, to_gptq
from jaxcomp.io.safetensors_leaves import load_safetensors, save_safetensors
from jaxcomp.io.safetensors_plain import read_metadata, save_plain
from jaxcomp.io.tree_nodes import flat
from jaxcomp.io.weights_file import save_weights, weights_and_extra

SAFETENSORS = ("plain", "jaxcomp", "compressed-tensors", "gptq", "awq")
LAYOUTS = ("gguf", "jxc", *SAFETENSORS)
CONFIG, INDEX, SHARDS = "config.json", "model.safetensors", "model.safetensors.index.json"
JSON_LIMIT = 1 << 28  # bytes of a folder's index: millions of names
METADATA = "gguf"  # beside the tree of a .jxc file: metadata of GGUF, and the order of its tensors
BLOCKS = "gguf:"  # in .jxc files and our safetensors: {"gguf:Q4_K": u8 array}


class Model(NamedTuple):
    """weights by name; what layout they had; the metadata of GGUF; config.json or a part of it."""

    weights: dict[str, Any]
    layout: str
    metadata: dict[str, Any]
    config: dict[str, Any]


class Kept(NamedTuple):
    """How many weights hold the same codes, were rounded, made dense; and arrays, which stay."""

    exact: int
    rounded: int
    dense: int
    arrays: int


def read_model(path: str | os.PathLike[str]) -> Model:
    """A file .gguf, .jxc or .safetensors, or a folder of config.json and .safetensors files.

    The layout of safetensors is found by their names and shapes. CorruptStream for damaged files,
    UnsupportedInput for others.
    """
    path = os.fspath(path)
    os.stat(path)  # FileNotFoundError, whatever its name is
    suffix = os.path.splitext(path)[1].lower()
    if os.path.isdir(path):
        return _folder(path)
    if suffix == ".gguf":
        return Model(load_gguf(path), "gguf", gguf_metadata(path), {})
    if suffix == ".jxc":
        return _jxc(path)
    if suffix == ".safetensors":
        metadata = read_metadata(path)
        if "jaxcomp" in metadata:
            return Model(_named(load_safetensors(path)), "jaxcomp", {}, {})
        found = metadata.get("quantization_config")
        config = {"quantization_config": _json(found, path)} if found else {}
        return _model(load_safetensors(path), config)
    raise UnsupportedInput(
        f"expected .gguf, .jxc, .safetensors or a folder, got {ascii(suffix)}; rename the file"
    )


def fit(
    model: Model, layout: str, *, rounding: str | None = None, dense: str | None = None
) -> tuple[dict[str, Any], Kept]:
    """The weights as `layout` holds them, and how.

    rounding: a kind of GGUF block (Q4_K), or the name of a format (int4-g32), for the compressed
        weights that the layout does not hold; dense: a dtype to make all compressed ones arrays of.
    UnsupportedInput, naming the weight, where neither is given and one would not be the same.
    """
    round_one = None if rounding is None else _rounding(rounding, layout)

    def fitted(name, x):
        if not isinstance(x, Leaf | GGUFBlocks):
            return "arrays", x
        if dense is not None:
            return "dense", np.asarray(x.dense()).astype(jnp.dtype(dense))
        try:
            return "exact", _held(name, x, layout)
        except UnsupportedInput as error:
            if round_one is None:
                raise UnsupportedInput(
                    f"{error}; or choose how to round again (--round), or --dense"
                ) from None
        return "rounded", round_one(np.asarray(x.dense(), np.float32))

    done, counts = {}, dict.fromkeys(Kept._fields, 0)
    for name, x in model.weights.items():
        try:
            how, done[name] = fitted(name, x)
        except UnsupportedInput as error:
            known = ascii(name) in str(error)
            raise UnsupportedInput(f"{'' if known else f'{ascii(name)}: '}{error}") from None
        counts[how] += 1
    return done, Kept(**counts)


def write_model(
    path: str | os.PathLike[str], weights: Mapping[str, Any], layout: str, source: Model
) -> int:
    """Write weights that `fit` made; returns the bytes. A path without a suffix is a folder, which
    also gets config.json: that of the source, or of the folder, with a quantization_config of its
    own. UnsupportedInput for a folder with other weights, which would be read in place of these."""
    path = os.fspath(path)
    if layout == "gguf":
        return save_gguf(path, dict(weights), source.metadata)
    if layout == "jxc":
        said = source.metadata and {METADATA: pack_metadata(source.metadata, weights)}
        return save_weights(path, dict(weights), extra=said)
    folder = os.path.splitext(path)[1].lower() != ".safetensors"
    file = os.path.join(path, INDEX) if folder else path
    arrays, found = weights, None
    if layout != "jaxcomp":
        arrays, found = _arrays(weights, layout, source)
    if folder:
        _check_folder(path)
        os.makedirs(path, exist_ok=True)
    if layout == "jaxcomp":
        return save_safetensors(file, dict(weights))
    metadata = {"format": "pt"}  # without which Transformers refuses a file
    if found is not None:
        metadata["quantization_config"] = json.dumps(found)
    size = save_plain(file, arrays, metadata)
    if folder:
        config = {key: x for key, x in source.config.items() if key != "quantization_config"}
        if not config and _has(path, CONFIG):
            config = _json_file(os.path.join(path, CONFIG))
            config.pop("quantization_config", None)
        config |= {} if found is None else {"quantization_config": found}
        text = json.dumps(config, indent=2).encode()
        write_atomic(os.path.join(path, CONFIG), text)
        size += len(text)
    return size


def _check_folder(path: str) -> None:
    """UnsupportedInput for a folder with weights in other files than the one that is written."""
    names = sorted(os.listdir(path)) if os.path.isdir(path) else []
    others = [x for x in names if x == SHARDS or x.endswith(".safetensors") and x != INDEX]
    if others:
        raise UnsupportedInput(
            f"expected a folder without other weights, got {path} with {', '.join(others[:4])}; "
            "choose a new folder"
        )


def _arrays(weights, layout, source):
    if layout == "plain":
        return weights, None
    if layout == "awq":
        return to_awq(weights)
    was = _quantization(source.config)
    if layout == "gptq":
        return to_gptq(weights, version=2 if was.get("checkpoint_format") == "gptq_v2" else 1)
    return to_compressed_tensors(weights, packed=was.get("format") != "int-quantized")


def _held(name: str, x: Any, layout: str) -> Any:
    """x as the layout holds it. UnsupportedInput where it would not be the same."""
    if layout in ("jxc", "jaxcomp"):
        return {f"{BLOCKS}{x.kind}": x.data} if isinstance(x, GGUFBlocks) else x
    if layout == "gguf":
        if isinstance(x, GGUFBlocks):
            return x
        if isinstance(x, QTensor):
            return blocks_of(x)
    if isinstance(x, GGUFBlocks) or layout in ("plain", "gguf"):
        kind = x.kind if isinstance(x, GGUFBlocks) else x.describe()
        raise UnsupportedInput(f"{ascii(name)}: expected what {layout} holds, got {kind}")
    x = _one_scale(x)
    {"gptq": to_gptq, "awq": to_awq, "compressed-tensors": to_compressed_tensors}[layout]({name: x})
    return x


def _one_scale(x: Leaf) -> Leaf:
    """Scales that are integers times a float16, as of Q6_K, as the float32 that they are."""
    if not isinstance(x, QTensor) or not isinstance(x.format.scale, Format) or x.format.name:
        return x
    if x.format.scale.scale != "float16" or x.format.scale.table is not None:
        return x
    scales = np.asarray(x.scales.dense(), np.float32)
    return QTensor(x.codes, scales, x.zeros, x.format._replace(scale="float32"), x.dtype, x.packed)


def _rounding(name: str, layout: str):
    """A function that rounds the float32 values of a weight again."""
    if layout == "plain":
        raise UnsupportedInput(
            "expected a layout that holds compressed weights, got plain; choose --dense, or another"
        )
    if layout == "gguf":
        if name.upper() not in KINDS:
            raise UnsupportedInput(
                f"expected a kind among {', '.join(KINDS)}, got {ascii(name)[:40]}; choose one"
            )
        return lambda w: round_to_gguf(w, name.upper())
    format = getattr(formats, name.upper().replace("-", "_"), None)
    if not isinstance(format, Format):
        raise UnsupportedInput(
            f"expected the name of a format of jaxcomp.formats, as int4-g32 or uint4-g128, got "
            f"{ascii(name)[:40]}; choose one"
        )
    if layout in ("gptq", "awq"):
        format = format._replace(scale="float16")
    return lambda w: quantize(jnp.asarray(w), format, -1)


def _model(arrays: dict[str, Any], config: dict[str, Any]) -> Model:
    """Plain arrays by name, as leaves where they are a known layout."""
    quantization = _quantization(config)
    layout = _layout(arrays)
    if layout == "gptq":
        arrays = from_gptq(arrays, quantization)
    elif layout == "awq":
        arrays = from_awq(arrays)
    elif layout == "compressed-tensors":
        arrays = from_compressed_tensors(arrays, quantization)
    return Model(arrays, layout, {}, config)


def _quantization(config: Mapping[str, Any]) -> dict[str, Any]:
    found = config.get("quantization_config") or {}
    if not isinstance(found, dict):
        raise CorruptStream(f"expected an object as quantization_config, got {found!r:.40}")
    return found


def _layout(arrays: Mapping[str, Any]) -> str:
    """By names, and of qweight by shapes: as many columns as outputs are GPTQ's."""
    for name, x in arrays.items():
        if name.endswith(".weight_packed"):
            return "compressed-tensors"
        if name.endswith(".weight_scale"):
            weight = arrays.get(name.removesuffix("_scale"))
            if weight is not None and weight.dtype.itemsize == 1:
                return "compressed-tensors"
        if name.endswith(".qweight"):
            scales = arrays.get(f"{name.removesuffix('.qweight')}.scales")
            if scales is None or scales.ndim != 2 or x.ndim != 2:
                raise CorruptStream(f"expected scales [groups, out] beside {ascii(name)[:60]}")
            return "gptq" if x.shape[1] == scales.shape[1] else "awq"
    return "plain"


def _folder(path: str) -> Model:
    config = _json_file(os.path.join(path, CONFIG)) if _has(path, CONFIG) else {}
    if _has(path, SHARDS):
        index = _json_file(os.path.join(path, SHARDS)).get("weight_map")
        good = isinstance(index, dict) and all(isinstance(x, str) for x in index.values())
        files = sorted(set(index.values())) if good else []
        if not files or any(os.path.basename(name) != name or not name for name in files):
            raise CorruptStream(
                f"expected a weight_map of files in the folder in {SHARDS}, got another; fetch it "
                "again"
            )
    else:
        files = [name for name in sorted(os.listdir(path)) if name.endswith(".safetensors")]
    if not files or len(files) > 1 and not _has(path, SHARDS):
        raise UnsupportedInput(
            f"expected a folder with one .safetensors file, or {SHARDS}, got {len(files)} files; "
            "name the file"
        )
    arrays: dict[str, Any] = {}
    for name in files:
        file = os.path.join(path, name)
        if "jaxcomp" in read_metadata(file):
            return Model(_named(load_safetensors(file)), "jaxcomp", {}, config)
        arrays |= load_safetensors(file)
    return _model(arrays, config)


def _has(path, name):
    return os.path.isfile(os.path.join(path, name))


def _json_file(path: str) -> dict[str, Any]:
    if os.path.getsize(path) > JSON_LIMIT:
        raise UnsupportedInput(f"expected at most {JSON_LIMIT} bytes of JSON in {path}")
    with open(path, "rb") as file:
        return _json(file.read(), path)


def _json(text: bytes | str, path: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorruptStream(f"expected JSON in {path}, got none: {error}") from None
    if not isinstance(value, dict):
        raise CorruptStream(f"expected a JSON object in {path}, got {type(value).__name__}")
    return value


def _jxc(path: str) -> Model:
    with open(path, "rb") as file:
        newer = file.read(5)[4:] == b"\x02"
    metadata, names = {}, []
    if newer:
        from jaxcomp.io.tensors import load_tensors

        weights = _named(load_tensors(path))
    else:
        tree, extra = weights_and_extra(path)
        weights = _named(tree)
        if METADATA in extra:
            metadata, names = unpack_metadata(extra[METADATA])
    if sorted(names) == sorted(weights):
        weights = {name: weights[name] for name in names}
    found = any(hasattr(x, "dense") for x in weights.values())
    model = Model(weights, "jxc", {}, {}) if found else _model(weights, {})
    return model._replace(metadata=metadata)


def _named(tree: Any) -> dict[str, Any]:
    """{names with dots: leaf}; blocks as they were."""
    done: dict[str, Any] = {}
    for path, x in flat(tree):
        name, _, kind = path.rpartition("/")
        if kind.startswith(BLOCKS):
            done[name.replace("/", ".")] = GGUFBlocks(kind.removeprefix(BLOCKS), np.asarray(x))
        else:
            done[path.replace("/", ".")] = x
    return done
