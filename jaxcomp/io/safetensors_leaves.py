"""Trees of arrays and compressed leaves <-> safetensors files, which other tools can open.

    u64 length | {"__metadata__": {"jaxcomp": index}, name: {dtype, shape, data_offsets}} | bytes

The names are the paths of parts in the tree: params/kernel/codes. The index, JSON in a string, says
which of them make which leaf (tree_nodes.py), and has the CRC-32 of the bytes of all arrays, which
is compared where there is one. A file without an index is a dict of plain arrays by name.

The format is read and written here: it is this small, and the library's front end for jax refuses
float8 arrays. Nothing is taken from a file before all of its header was found to fit its length.
"""

import json
import math
import os
import zlib
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcomp.base import CorruptStream, JaxcompError, UnsupportedInput
from jaxcomp.coding.container import write_atomic
from jaxcomp.io.tree_nodes import Reader, Writer, dtype_of, fill, unnamed
from jaxcomp.io.weights_file import check_leaves, on_device
from jaxcomp.tree import path_text

VERSION = 1
HEADER_LIMIT = 100_000_000  # bytes: the limit of the library, so that what we write it reads
ALIGNMENT = 8  # of the first array, as the library has it; wider arrays come first
DTYPES = {
    **{"BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16"},
    **{"U32": "uint32", "I32": "int32", "U64": "uint64", "I64": "int64"},
    **{"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"},
    **{"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "C64": "complex64"},
}


class _Entry(NamedTuple):
    dtype: np.dtype
    shape: tuple[int, ...]
    start: int
    end: int


def save_safetensors(path: str | os.PathLike[str], tree: Any) -> int:
    """Write a tree of arrays and compressed leaves; returns the bytes of the file.

    The file replaces the old one at once, or not at all. Raises UnsupportedInput for what is no
    array, number, string or known compressed leaf, and for two arrays of one name.
    """
    writer = Writer()
    node = writer.node(tree)
    arrays = [x for x, _ in writer.rows]
    found, _ = jax.tree_util.tree_flatten_with_path(tree)
    names = [path_text(path) or "array" for path, x in found if hasattr(x, "dtype")]
    if len(set(names)) != len(arrays) or "__metadata__" in names:
        raise UnsupportedInput(
            "expected a name of its own for each array, got two of one name; rename a key"
        )
    codes = {name: code for code, name in DTYPES.items()}
    order = sorted(range(len(names)), key=lambda i: (-arrays[i].dtype.itemsize, names[i]))
    body = b"".join(arrays[i].tobytes() for i in order)
    index = {"version": VERSION, "tree": node, "names": names, "crc32": zlib.crc32(body)}
    header: dict[str, Any] = {"__metadata__": {"jaxcomp": json.dumps(index, allow_nan=False)}}
    end = 0
    for i in order:
        x = arrays[i]
        if x.dtype.name not in codes:
            raise UnsupportedInput(
                f"expected a dtype that safetensors has ({', '.join(codes)}), got {x.dtype.name} "
                f"in {names[i]}; use save_weights"
            )
        start, end = end, end + x.nbytes
        header[names[i]] = {
            "dtype": codes[x.dtype.name],
            "shape": list(x.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    if len(text) > HEADER_LIMIT:
        raise UnsupportedInput(f"expected a header of at most {HEADER_LIMIT} bytes; split the tree")
    data = b"".join([len(text).to_bytes(8, "little"), text, body])
    write_atomic(path, data)
    return len(data)


def load_safetensors(path: str | os.PathLike[str], *, like: Any = None) -> Any:
    """The tree that save_safetensors wrote; of other files, {name: array}.

    like: a tree of the same paths, for what is no dict, list or tuple. Arrays of 64 bits are
    NumPy's where jax would narrow them.

    Raises CorruptStream for what is no safetensors file, or was changed, and UnsupportedInput for
    newer versions, unknown leaves and dtypes.
    """
    data = np.memmap(path, np.uint8, "r") if os.path.getsize(path) else np.zeros(0, np.uint8)
    entries, metadata, body = _header(data)
    arrays = {}
    for name, entry in entries.items():
        raw = body[entry.start : entry.end]
        arrays[name] = on_device(np.frombuffer(raw, entry.dtype).reshape(entry.shape))
    if "jaxcomp" not in metadata:
        return arrays
    saved = _tree(metadata["jaxcomp"], arrays, body)
    check_leaves(saved)
    if like is not None:
        return fill(saved, like)
    if name := unnamed(saved):
        raise UnsupportedInput(
            f"expected like= for a tree with nodes of {ascii(name)}, got none; pass a tree of the "
            "same structure, such as freshly initialised params"
        )
    return saved


def _tree(text: str, arrays: dict[str, Any], body: np.ndarray) -> Any:
    try:
        index = json.loads(text)
        version, names = index["version"], index["names"]
        if version != VERSION:
            raise UnsupportedInput(
                f"expected version {VERSION} of the index, got {ascii(version)[:40]}; install the "
                "jaxcomp that wrote the file"
            )
        if index.get("crc32", found := zlib.crc32(body)) != found:
            raise CorruptStream(
                f"expected arrays of CRC-32 {index['crc32']!r:.20}, got {found}; fetch the file "
                "again"
            )
        if len(names) != len(arrays) or set(names) != set(arrays):
            raise CorruptStream("expected the arrays that the index names, got others")
        return Reader([arrays[name] for name in names]).value(index["tree"])
    except JaxcompError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise CorruptStream(f"expected an index of leaves, got another: {error}") from None


def _header(data: np.ndarray) -> tuple[dict[str, _Entry], dict[str, str], np.ndarray]:
    """(arrays by name, metadata, the bytes of all arrays), all checked."""

    def refuse(got: str):
        raise CorruptStream(f"expected a safetensors file, got {got}; fetch the file again")

    length = int.from_bytes(data[:8].tobytes(), "little")
    if len(data) < 8 or length > min(len(data) - 8, HEADER_LIMIT):
        refuse(f"{len(data)} bytes with a header of {length}")
    try:
        header = json.loads(data[8 : 8 + length].tobytes())
    except (ValueError, RecursionError) as error:
        refuse(f"a header that is no JSON ({error})")
    if not isinstance(header, dict):
        refuse("a header that is no object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(type(x) is str for x in metadata.values()):
        refuse("metadata that are no strings")
    body, entries = data[8 + length :], {}
    for name, entry in header.items():
        try:
            code, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        except (KeyError, TypeError, ValueError):
            refuse(f"an entry {ascii(name)[:60]} without dtype, shape and data_offsets")
        if not isinstance(shape, list) or not all(
            type(n) is int and n >= 0 for n in [*shape, start, end]
        ):
            refuse(f"sizes of {ascii(name)[:60]} that are no counts")
        if not isinstance(code, str) or code not in DTYPES:
            raise UnsupportedInput(
                f"expected a dtype among {', '.join(DTYPES)}, got {ascii(code)[:40]} in "
                f"{ascii(name)[:60]}; convert it with the tool that wrote it"
            )
        dtype = dtype_of(DTYPES[code])
        if not start <= end <= len(body) or math.prod(shape) * dtype.itemsize != end - start:
            refuse(f"{end - start} bytes for {shape} of {code} in {ascii(name)[:60]}")
        entries[name] = _Entry(dtype, tuple(shape), start, end)
    at = 0
    for entry in sorted(entries.values(), key=lambda entry: (entry.start, entry.end)):
        if entry.start != at:
            refuse("arrays with a gap or an overlap")
        at = entry.end
    if at != len(body):
        refuse(f"{len(body) - at} bytes after the last array")
    return entries, metadata, body
