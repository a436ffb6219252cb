"""A tree of arrays and compressed leaves <-> JSON, with the arrays aside.

    null                            None
    3                               the array of row 3
    ["value", 0.5]                  a Python number, bool or string
    ["dict", {"key": node}]         keys are strings
    ["list", node, ...]             and "tuple"
    ["node", "Class", {"key": node}]  any other pytree: it comes back into a template, `like`
    ["leaf", "QTensor", {field: node}, {field: static}]

A static field is JSON, with lists for tuples, {"dtype": "bfloat16"} for a dtype, and {"Format":
{...}} for a number format, of whose fields those of the default value are left out. Only classes
in LEAVES and STATICS are made, by their fields: nothing in a file names what is run.
"""

import dataclasses
import importlib
import math
from typing import Any

import jax
import numpy as np

from jaxcomp.base import CorruptStream, UnsupportedInput
from jaxcomp.coding.coded_array import Codes
from jaxcomp.formats.format import Format, check
from jaxcomp.formats.layout import merged_axis
from jaxcomp.formats.leaf import Leaf
from jaxcomp.formats.level_rules import Levels, check_levels
from jaxcomp.kernels.packing import least_tile
from jaxcomp.tree import is_compressed, path_text

# Every class of leaf that a file may hold, and where it lives. A new one is one line.
LEAVES = {
    "Codebook": "jaxcomp.formats.codebook",
    "GridChoice": "jaxcomp.formats.grid_choice",
    "Latent": "jaxcomp.formats.latent",
    "Lossless": "jaxcomp.formats.lossless",
    "LowRank": "jaxcomp.formats.low_rank",
    "OutlierVictim": "jaxcomp.formats.outlier_victim",
    "QTensor": "jaxcomp.formats.qtensor",
    "Selected": "jaxcomp.formats.selected",
    "SparseNM": "jaxcomp.formats.sparse_nm",
    "SparseRows": "jaxcomp.formats.sparse_rows",
    "Sum": "jaxcomp.formats.sum",
    "Transformed": "jaxcomp.formats.transformed",
}
# Every NamedTuple among their static fields.
STATICS = {
    "Format": "jaxcomp.formats.format",
    "Levels": "jaxcomp.formats.level_rules",
    "Rule": "jaxcomp.formats.latent",
}
# Wide enough for every model, and none to exhaust a stack.
DEPTH_LIMIT = 64
LARGEST_TILE = 1 << 24  # codes; a whole row without a divisor of 128 is one tile


class Writer:
    """Nodes of a tree; arrays and how their codes are packed gather in rows."""

    def __init__(self):
        self.rows: list[Any] = []  # (array, how its codes are packed)

    def node(self, x: Any, path: tuple[str, ...] = ()) -> Any:
        """The JSON of x. UnsupportedInput for what has none, with its path."""
        if len(path) == DEPTH_LIMIT:
            raise UnsupportedInput(f"expected a tree at most {DEPTH_LIMIT} deep; flatten it")
        if x is None:
            return None
        if isinstance(x, (np.ndarray, np.generic, jax.Array)):  # np.float64 is a float as well
            return self._array(x, path)
        if isinstance(x, (bool, int, float, str)):
            return ["value", _checked_value(x)]
        if isinstance(x, Leaf):
            return self._leaf(x, path)
        if type(x) in (list, tuple):
            return [type(x).__name__, *(self.node(y, (*path, str(i))) for i, y in enumerate(x))]
        if type(x) is dict and all(type(key) is str for key in x):
            return ["dict", {key: self.node(x[key], (*path, key)) for key in sorted(x)}]
        try:
            below, _ = jax.tree_util.tree_flatten_with_path(x, is_leaf=lambda y: y is not x)
        except (TypeError, ValueError) as error:  # keys of several types have no order
            raise UnsupportedInput(f"{_named(path)}expected a pytree of jax: {error}") from None
        if len(below) == 1 and below[0][1] is x:
            raise UnsupportedInput(
                f"{_named(path)}expected arrays, numbers, strings and compressed leaves in a tree, "
                f"got {type(x).__name__}; leave it out of what is saved"
            )
        below = [(path_text(key), y) for key, y in below]
        fields = {key: self.node(y, (*path, key)) for key, y in below}
        if len(fields) != len(below):
            raise UnsupportedInput(f"expected keys of other texts in {type(x).__name__}")
        return ["node", type(x).__name__, fields]

    def _array(self, x: Any, path: tuple[str, ...], codes: Codes | None = None) -> int:
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.extended):
            raise UnsupportedInput(
                f"{_named(path)}expected arrays of numbers, got {x.dtype}; save "
                "jax.random.key_data(key)"
            )
        dtype_of(x.dtype.name)
        self.rows.append(self._row(x, path, codes))
        return len(self.rows) - 1

    def _row(self, x: Any, path: tuple[str, ...], codes: Codes | None) -> Any:
        x = np.asarray(x)
        return x.astype(x.dtype.newbyteorder("<")), codes

    def _leaf(self, x: Leaf, path: tuple[str, ...]) -> list[Any]:
        name = type(x).__name__
        if name not in LEAVES or leaf_named(name) is not type(x):
            raise UnsupportedInput(
                f"{_named(path)}expected a leaf among {', '.join(LEAVES)}, got {name}; list it in "
                "jaxcomp/io/tree_nodes.py"
            )
        arrays, static = {}, {}
        for field in dataclasses.fields(x):
            value = getattr(x, field.name)
            if field.metadata.get("static"):
                static[field.name] = to_static(value, f"{name}.{field.name}")
            elif field.name == "codes" and isinstance(value, (np.ndarray, jax.Array)):
                arrays["codes"] = self._array(value, path, packing_of(vars(x)))
            else:
                arrays[field.name] = self.node(value, (*path, field.name))
        return ["leaf", name, arrays, static]


def _named(path: tuple[str, ...]) -> str:
    return "/".join(path) + ": " if path else ""


class Reader:
    """Trees of nodes. The first pass, with rows of None, checks all that needs no array."""

    def __init__(self, rows: list[Any]):
        self.rows = rows
        self.codes: dict[int, Codes] = {}  # of each row that was met as codes

    def value(self, node: Any, path: str = "") -> Any:
        """The tree; "node"s become dicts of class Fields, which `fill` puts into a template."""
        if node is None:
            return None
        if type(node) is int:
            if not 0 <= node < len(self.rows):
                raise CorruptStream(f"expected an array among {len(self.rows)}, got {node}")
            return self.rows[node]
        if not isinstance(node, list) or not node:
            raise CorruptStream(f"expected a node of a tree, got {ascii(node)[:60]}")
        kind, *rest = node
        if kind == "value" and len(rest) == 1 and type(rest[0]) in (bool, int, float, str):
            return rest[0]
        if kind in ("list", "tuple"):
            items = [self.value(x) for x in rest]
            return items if kind == "list" else tuple(items)
        if kind == "dict" and len(rest) == 1 and isinstance(rest[0], dict):
            return {key: self.value(x) for key, x in rest[0].items()}
        if kind == "node" and len(rest) == 2 and isinstance(rest[1], dict):
            return Fields(rest[0], {key: self.value(x) for key, x in rest[1].items()})
        if kind == "leaf" and len(rest) == 3 and all(isinstance(x, dict) for x in rest[1:]):
            return self._leaf(*rest)
        raise CorruptStream(f"expected a node of a tree, got {ascii(node)[:60]}")

    def _leaf(self, name: Any, arrays: dict[str, Any], static: dict[str, Any]) -> Leaf:
        cls = leaf_named(name)
        fields = {f.name: bool(f.metadata.get("static")) for f in dataclasses.fields(cls)}
        # Fields with a default came later than the first files: without them it is the default.
        later = [f for f in dataclasses.fields(cls) if f.default is not dataclasses.MISSING]
        found = {f.name: fields[f.name] for f in later}
        if {**found, **dict.fromkeys(arrays, False), **dict.fromkeys(static, True)} != fields:
            raise CorruptStream(f"expected the fields {', '.join(fields)} of {name}, got others")
        given = {key: from_static(x) for key, x in static.items()}
        if "packed" in given:
            _check_packed(given["packed"])
        _check_static(given, name)
        if type(arrays.get("codes")) is int and (codes := packing_of(given)) is not None:
            self.codes[arrays["codes"]] = codes
        return cls(**{key: self.value(x) for key, x in arrays.items()}, **given)


@dataclasses.dataclass
class Fields:
    """What was saved of a pytree whose class no file may name: keys and children."""

    name: str
    children: dict[str, Any]


def fill(saved: Any, like: Any) -> Any:
    """The saved leaves in the structure of `like`, matched by their paths."""
    found = dict(flat(saved))
    places, tree = jax.tree_util.tree_flatten_with_path(like, is_leaf=is_compressed)
    paths = [path_text(path) for path, _ in places]
    odd = sorted(set(paths) ^ set(found))
    if odd or len(paths) != len(found):
        raise UnsupportedInput(
            f"expected like= to have the {len(found)} leaves that were saved, got {len(paths)}; "
            f"they differ in {', '.join(odd[:5]) or 'paths that occur twice'}"
        )
    return jax.tree.unflatten(tree, [found[path] for path in paths])


def unnamed(saved: Any) -> str | None:
    """The class of a node that needs a template, if there is one."""
    if isinstance(saved, Fields):
        return str(saved.name)[:60]
    below = saved.values() if isinstance(saved, dict) else saved
    found = (unnamed(x) for x in below) if isinstance(saved, (dict, list, tuple)) else ()
    return next((name for name in found if name), None)


def flat(saved: Any, prefix: tuple[str, ...] = ()) -> list[tuple[str, Any]]:
    """(path, leaf) of all that was saved, with the paths that jaxcomp.tree gives."""
    if isinstance(saved, Fields):
        below = saved.children.items()
    elif isinstance(saved, dict):
        below = saved.items()
    elif isinstance(saved, (list, tuple)):
        below = ((str(i), x) for i, x in enumerate(saved))
    else:
        return [] if saved is None else [("/".join(prefix), saved)]
    return [pair for key, x in below for pair in flat(x, (*prefix, key))]


def leaf_named(name: Any) -> type:
    """The class of that name. UnsupportedInput for one that this version does not know."""
    return _listed(name, LEAVES, "leaf")


def _listed(name, homes, what):
    if not isinstance(name, str) or name not in homes:
        raise UnsupportedInput(
            f"expected a {what} among {', '.join(homes)}, got {ascii(name)[:60]}; install the "
            "jaxcomp that wrote the file"
        )
    return getattr(importlib.import_module(homes[name]), name)


def packing_of(fields: dict[str, Any]) -> Codes | None:
    """How a leaf's codes lie in bytes, where its format or its own fields say so."""
    said = fields.get("format")
    if not isinstance(said, Format):
        said = Format(fields.get("bits", 8), tile=fields.get("tile", 0))
    packed, bits, tile = fields.get("packed"), said.bits, said.tile
    if not packed or type(bits) is not int or type(tile) is not int or not 0 <= bits < 8:
        return None
    if not 1 <= tile <= LARGEST_TILE or tile % least_tile(bits):
        return None
    return Codes(bits, tile, merged_axis(packed))


def to_static(x: Any, where: str) -> Any:
    """The JSON of a static field."""
    if x is None or isinstance(x, (bool, int, float, str)):
        return x if x is None else _checked_value(x)
    name = type(x).__name__
    if name in STATICS and _listed(name, STATICS, "format") is type(x):
        kept = {k: v for k, v in x._asdict().items() if v != x._field_defaults.get(k, ...)}
        return {name: {k: to_static(v, where) for k, v in kept.items()}}
    if isinstance(x, tuple):
        return [to_static(y, where) for y in x]
    if isinstance(x, np.dtype) or (isinstance(x, type) and issubclass(x, np.generic)):
        return {"dtype": np.dtype(x).name}
    raise UnsupportedInput(
        f"expected numbers, strings, tuples, dtypes and formats in {where}, got {name}"
    )


def from_static(x: Any) -> Any:
    """The static field of that JSON."""
    if isinstance(x, list):
        return tuple(from_static(y) for y in x)
    if not isinstance(x, dict):
        return x
    if set(x) == {"dtype"}:
        return dtype_of(x["dtype"]).newbyteorder("=")
    if len(x) != 1 or not all(isinstance(fields, dict) for fields in x.values()):
        raise CorruptStream(f"expected a dtype or a format, got {ascii(x)[:60]}")
    ((name, fields),) = x.items()
    cls: Any = _listed(name, STATICS, "format")
    if set(fields) - set(cls._fields):
        raise UnsupportedInput(
            f"expected a {name} of {', '.join(cls._fields)}, got {ascii(sorted(fields))[:80]}; "
            "install the jaxcomp that wrote the file"
        )
    if set(cls._fields) - set(fields) - set(cls._field_defaults):
        raise CorruptStream(f"expected the fields of {name}, got {ascii(sorted(fields))[:80]}")
    made = cls(**{k: from_static(v) for k, v in fields.items()})
    if isinstance(made, Format) and not all(type(n) is int for n in (made.bits, made.tile)):
        raise CorruptStream(f"expected whole bits and tile, got {ascii(fields)[:60]}")
    return made


def dtype_of(name: Any) -> np.dtype:
    """A dtype by its name, if arrays of a file may have it."""
    if name not in DTYPES:
        raise UnsupportedInput(f"expected a dtype among {', '.join(DTYPES)}, got {name!r:.40}")
    return np.dtype(getattr(jax.numpy, name, None) or name).newbyteorder("<")


DTYPES = (
    *("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
    *("float8_e4m3fn", "float8_e5m2", "float8_e4m3b11fnuz", "float8_e4m3fnuz", "float8_e5m2fnuz"),
    *("float8_e3m4", "float8_e4m3", "float8_e8m0fnu", "float4_e2m1fn"),
    *("int2", "uint2", "int4", "uint4"),
)


def _checked_value(x):
    if isinstance(x, float) and not math.isfinite(x):
        raise UnsupportedInput(f"expected finite numbers, got {x}; make it an array")
    if type(x) not in (bool, int, float, str):
        raise UnsupportedInput(f"expected plain numbers and strings, got {type(x).__name__}")
    return x


def _check_static(given: dict[str, Any], name: str) -> None:
    """CorruptStream for formats that are none, and dtypes that no weight has."""
    for key, x in given.items():
        floating = isinstance(x, np.dtype) and jax.dtypes.issubdtype(x, np.floating)
        if key == "dtype" and not floating:
            raise CorruptStream(f"expected a floating dtype of {name}, got {ascii(x)[:40]}")
        if isinstance(x, (Format, Levels)):
            try:
                check(x) if isinstance(x, Format) else check_levels(x)
            except UnsupportedInput as error:
                raise CorruptStream(f"expected a format in {name}: {error}") from None


def _check_packed(packed):
    """CorruptStream for packed axes that no layout has."""
    good = isinstance(packed, tuple) and 0 < len(packed) <= 32
    if not good or not all(
        isinstance(pair, tuple)
        and len(pair) == 2
        and all(type(n) is int for n in pair)
        and -32 <= pair[0] < 0 < pair[1]
        for pair in packed
    ):
        raise CorruptStream(f"expected packed axes (axis, size), got {ascii(packed)[:60]}")
