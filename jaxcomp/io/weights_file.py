"""A tree of compressed weights as a .jxc file: every array exact, in as few bytes as coding gives.

Container (coding/container.py) of codec "tree", header {"tree_version", "leaves", "values",
"nbytes"}, which `jaxcomp info` prints, and two sections:

    index   {"tree": node, "rows": [[dtype, shape, kind, [bytes of each plane]], ...]}, JSON,
            deflated; tree_nodes.py has the nodes, coding/coded_array.py kinds and planes;
            "extra": {name: row} where there are bytes beside the tree
    arrays  the planes of all rows, one after another

Everything that the index claims is compared with the size of the file before it is allocated, and
so is how far the index itself may inflate.
"""

import json
import math
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcomp import tree as trees
from jaxcomp.base import CorruptStream, JaxcompError, UnsupportedInput
from jaxcomp.coding import container
from jaxcomp.coding.chunked import most_plain
from jaxcomp.coding.coded_array import Codes, check_plane, read_array, symbol_counts, write_array
from jaxcomp.formats.leaf import Leaf
from jaxcomp.io.tree_nodes import DEPTH_LIMIT, Reader, Writer, dtype_of, fill, flat, unnamed

KIND = "tree"
VERSION = 1
# An array takes some 100 bytes of JSON: this is a model of 300,000 of them.
INDEX_LIMIT = 1 << 25
RANK_LIMIT = 32  # NumPy's is 64


def save_weights(
    path: str | os.PathLike[str], tree: Any, *, extra: Mapping[str, bytes] | None = None
) -> int:
    """Write a tree of arrays and compressed leaves to a .jxc file; returns the bytes of the file.

    extra: bytes by name that belong to the file and not to the tree, as metadata of another format;
        load_weights passes over them, weights_and_extra reads them.

    The file replaces the old one at once, or not at all. Raises UnsupportedInput for what is no
    array, number, string or known compressed leaf, naming it.
    """
    data = weights_bytes(tree, extra or {})
    container.write_atomic(path, data)
    return len(data)


def load_weights(path: str | os.PathLike[str], *, like: Any = None) -> Any:
    """The tree of a file that save_weights wrote, bit for bit, as jax arrays.

    like: a tree of the same paths, for what is no dict, list or tuple (flax.struct, equinox
    modules, optimizer states): leaves go where it has any leaf, compressed or not. Arrays of 64
    bits are NumPy's where jax would narrow them.

    Raises CorruptStream for bytes that no writer made, UnsupportedInput for other files, newer
    versions and unknown leaves.
    """
    return _tree_of(container.read(path), like)


def weights_and_extra(path: str | os.PathLike[str]) -> tuple[Any, dict[str, bytes]]:
    """load_weights, and the bytes that were saved beside the tree, by name."""
    saved = _saved(container.read(path))
    return _filled(saved.tree, None), saved.extra


def weights_bytes(tree: Any, extra: Mapping[str, bytes] = MappingProxyType({})) -> bytes:
    """The bytes of the file of a tree."""
    writer = Writer()
    node = writer.node(tree)
    places = {name: len(writer.rows) + k for k, name in enumerate(extra)}
    writer.rows += [(np.frombuffer(data, np.uint8), None) for data in extra.values()]
    written = [write_array(x, codes) for x, codes in writer.rows]
    sizes = [(kind, [len(part) for part in parts]) for kind, parts in written]
    arrays = b"".join(part for _, parts in written for part in parts)
    return framed(tree, node, writer.rows, sizes, arrays, places)


def verify_weights(file: container.Container) -> int:
    """Decode all of a file that save_weights wrote, as load_weights does; returns how many arrays.
    A tree that can only be loaded with like= is whole, too."""
    return len(_saved(file).arrays)


def check_tree(node: Any, rows: Sequence[Any]) -> None:
    """CorruptStream for nodes that no tree is made of, and leaves that are no weights.

    rows: what has the shape and dtype of each array; their values are not needed.
    """
    rebuilt(node, [None] * len(rows))
    check_leaves(rebuilt(node, [jax.ShapeDtypeStruct(row.shape, row.dtype) for row in rows]))


def rebuilt(node: Any, arrays: list[Any]) -> Any:
    """The tree of a node and its arrays. CorruptStream for what no writer wrote."""
    try:
        return Reader(arrays).value(node)
    except JaxcompError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise CorruptStream(f"expected a tree that was saved, got another: {error}") from None


def framed(
    tree: Any,
    node: Any,
    arrays: list[tuple[np.ndarray, Codes | None]],
    sizes: list[tuple[str, list[int]]],
    data: bytes,
    extra: Mapping[str, int] = MappingProxyType({}),
) -> bytes:
    """The file of a node, its arrays, (kind, bytes of each plane) of them, and all their planes.

    extra: the numbers of the arrays that are bytes beside the tree.
    """
    rows = [
        [x.dtype.name, list(x.shape), kind, planes]
        for (x, _), (kind, planes) in zip(arrays, sizes, strict=True)
    ]
    said = {"tree": node, "rows": rows} | ({"extra": dict(extra)} if extra else {})
    index = json.dumps(said, separators=(",", ":"), allow_nan=False)
    if len(index) > INDEX_LIMIT:
        raise UnsupportedInput(
            f"expected an index of at most {INDEX_LIMIT} bytes, got {len(index)}; save the tree in "
            "several files"
        )
    leaves = [leaf for _, leaf in trees.leaves(tree) if hasattr(leaf, "shape")]
    header = {
        "tree_version": VERSION,
        "leaves": len(leaves),
        "values": sum(math.prod(leaf.shape) for leaf in leaves),
        "nbytes": sum(x.nbytes for x, _ in arrays),
    }
    deflated = zlib.compress(index.encode("ascii"), 9)
    if len(index) > most_plain(len(deflated)):  # a reader would take it for a trap
        deflated = zlib.compress(index.encode("ascii"), 0)
    sections = {"index": deflated, "arrays": data}
    return container.pack(KIND, header, sections)


def tree_of(data: bytes, *, like: Any = None) -> Any:
    """load_weights, for the bytes of a file."""
    return _tree_of(container.unpack(data), like)


class _Saved(NamedTuple):
    """The tree, with Fields for nodes of classes that no file may name, all arrays, and extras."""

    tree: Any
    arrays: list[Any]
    extra: dict[str, bytes]


class _Row(NamedTuple):
    dtype: np.dtype
    shape: tuple[int, ...]
    kind: str
    sizes: list[int]


def _tree_of(file: container.Container, like: Any) -> Any:
    return _filled(_saved(file).tree, like)


def _filled(saved: Any, like: Any) -> Any:
    if like is not None:
        return fill(saved, like)
    if name := unnamed(saved):
        raise UnsupportedInput(
            f"expected like= for a tree with nodes of {ascii(name)}, got none; pass a tree of the "
            "same structure, such as freshly initialised params"
        )
    return saved


def _saved(file: container.Container) -> _Saved:
    if file.codec != KIND:
        raise UnsupportedInput(
            f"expected a file of codec {KIND!r}, written by save_weights, got {file.codec!r}; "
            "jaxcomp info says what it holds"
        )
    if file.header.get("tree_version") != VERSION:
        raise UnsupportedInput(
            f"expected a tree of version {VERSION}, got {file.header.get('tree_version')!r:.40}; "
            "install the jaxcomp that wrote it"
        )
    if set(file.sections) != {"index", "arrays"}:
        raise CorruptStream(f"expected sections index and arrays, got {sorted(file.sections)}")
    index = _index(file.sections["index"])
    rows = [_row(entry) for entry in index["rows"]]
    try:
        # Once without arrays: what the leaves are says how their codes are packed.
        reader = Reader([None] * len(rows))
        reader.value(index["tree"])
        arrays = _arrays(rows, reader.codes, file)
    except JaxcompError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise CorruptStream(f"expected a tree that was saved, got another: {error}") from None
    saved = rebuilt(index["tree"], arrays)
    check_leaves(saved)
    extra = {name: np.asarray(arrays[k]).tobytes() for name, k in index["extra"].items()}
    return _Saved(saved, arrays, extra)


def _index(data: bytes) -> dict[str, Any]:
    inflate, limit = zlib.decompressobj(), min(INDEX_LIMIT, most_plain(len(data)))
    try:
        text = inflate.decompress(data, limit + 1)
    except zlib.error as error:
        raise CorruptStream(f"expected an index, got what does not inflate: {error}") from None
    if not inflate.eof or inflate.unused_data or len(text) > limit:
        raise CorruptStream(
            f"expected one index of at most {limit} bytes, got more or less; fetch the file again"
        )
    depth = 0
    strings = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'  # no steps back: they take 100 times the memory
    for bracket in re.finditer(rb"[\[{}\]]", re.sub(strings, b"", text)):
        depth += 1 if bracket[0] in b"[{" else -1
        if depth > 4 * DEPTH_LIMIT:
            raise CorruptStream(f"expected a tree at most {DEPTH_LIMIT} deep, got a deeper one")
    try:
        index = json.loads(text)
    except ValueError as error:
        raise CorruptStream(f"expected an index in JSON, got none: {error}") from None
    if not isinstance(index, dict) or not isinstance(index.get("rows"), list):
        raise CorruptStream("expected an index of a tree and its rows, got another")
    extra = index.get("extra", {})
    known = range(len(index["rows"]))
    good = isinstance(extra, dict) and all(type(k) is int and k in known for k in extra.values())
    if not good or len(set(extra.values())) != len(extra):  # each is copied
        raise CorruptStream(f"expected rows of what is beside the tree, got {ascii(extra)[:80]}")
    return {"tree": index.get("tree"), "rows": index["rows"], "extra": extra}


def _row(entry: Any) -> _Row:
    good = isinstance(entry, list) and len(entry) == 4
    good = good and all(isinstance(x, list) for x in (entry[1], entry[3]))
    good = good and len(entry[1]) <= RANK_LIMIT and len(entry[3]) <= 16
    if not good or not all(type(n) is int and 0 <= n < 1 << 48 for n in entry[1] + entry[3]):
        raise CorruptStream(f"expected an array's row, got {ascii(entry)[:80]}")
    return _Row(dtype_of(entry[0]), tuple(entry[1]), entry[2], entry[3])


def _arrays(rows: list[_Row], codes: dict[int, Codes], file: container.Container) -> list[Any]:
    """All arrays, once every row was found to fit the file."""
    data, total = file.sections["arrays"], 0
    for i, row in enumerate(rows):
        counts = symbol_counts(row.kind, row.shape, row.dtype, codes.get(i))
        if len(counts) != len(row.sizes):
            raise CorruptStream(f"expected {len(counts)} planes, got {len(row.sizes)}")
        for size, count in zip(row.sizes, counts, strict=True):
            check_plane(size, count)
            total += size
    if total != len(data):
        raise CorruptStream(f"expected {total} bytes of arrays, got {len(data)}")
    nbytes = sum(math.prod(row.shape) * row.dtype.itemsize for row in rows)
    if nbytes != file.header.get("nbytes"):
        raise CorruptStream(
            f"expected arrays of {nbytes} bytes, the header says {file.header.get('nbytes')!r:.40}"
        )
    arrays, at = [], 0
    for i, row in enumerate(rows):
        planes = []
        for size in row.sizes:
            planes.append(data[at : at + size])
            at += size
        arrays.append(on_device(read_array(row.kind, planes, row.shape, row.dtype, codes.get(i))))
    return arrays


def on_device(x: np.ndarray) -> Any:
    """As jax has it, unless that would narrow it."""
    wide = x.dtype.itemsize // (2 if x.dtype.kind == "c" else 1) == 8
    # Not asarray, which compiles a program for every shape.
    return x if wide and not jax.config.jax_enable_x64 else jax.device_put(x)


def check_leaves(saved: Any) -> None:
    """CorruptStream for a compressed leaf whose parts make no weight."""
    seen = set()
    for path, leaf in flat(saved):
        parts, structure = jax.tree.flatten(leaf)
        kind = (structure, *((x.shape, x.dtype) for x in parts if hasattr(x, "shape")))
        if not isinstance(leaf, Leaf) or kind in seen:
            continue
        seen.add(kind)
        try:
            made = jax.eval_shape(lambda leaf: leaf.dense(), leaf).shape
            right = made == leaf.shape
        except Exception as error:  # whatever arithmetic on nonsense raises
            raise CorruptStream(
                f"expected the parts of a weight in {ascii(path)[:60]}, got others: {error}"
            ) from None
        if not right:
            raise CorruptStream(
                f"expected a weight {leaf.shape} in {ascii(path)[:60]}, got one {made}"
            )
