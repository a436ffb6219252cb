"""A call split into what is traced and what stays Python, and back.

Arrays and compressed leaves are traced. Everything else (train=False, a method's name, None) is
handed to the function as it is. So are results that are not arrays.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxcomp.base import UnsupportedInput
from jaxcomp.formats.leaf import Leaf, is_leaf, part_axis
from jaxcomp.kernels.dispatch import align
from jaxcomp.tree import path_text


class Traced(NamedTuple):
    """A function as a jaxpr of arrays to arrays, and how its results are put together."""

    jaxpr: Any
    rebuild: Callable[[list[Any]], Any]


class Call(NamedTuple):
    """One call of fn: its arrays, their paths, and everything else."""

    fn: Callable[..., Any]
    arrays: list[Any]
    paths: list[str]
    static: tuple[Any, ...]  # Python values, in place of arrays a mark
    tree: Any

    def compressed(self) -> list[tuple[str, Leaf]]:
        pairs = zip(self.paths, self.arrays, strict=True)
        return [(path, x) for path, x in pairs if isinstance(x, Leaf)]

    def trace(self, arrays: list[Any]) -> Traced:
        """fn on the dense shapes of `arrays`, which stand for this call's."""
        kept: list[Any] = []
        tree: Any = None

        def run(*dense):
            nonlocal tree
            given = iter(dense)
            flat = [next(given) if x is _ARRAY else x for x in self.static]
            args, kwargs = jax.tree.unflatten(self.tree, flat)
            out, tree = jax.tree.flatten(self.fn(*args, **kwargs))
            kept[:] = [_ARRAY if _is_array(x) else x for x in out]
            return [x for x in out if _is_array(x)]

        jaxpr = jax.make_jaxpr(run)(*map(_shape, arrays))

        def rebuild(results):
            given = iter(results)
            return jax.tree.unflatten(tree, [next(given) if x is _ARRAY else x for x in kept])

        return Traced(jaxpr, rebuild)


class _Array:
    """The mark in place of an array among Python values."""


_ARRAY = _Array()


def split(fn: Callable[..., Any], args: Any, kwargs: Any) -> Call:
    """A Call; paths start behind the number of a lone first argument's."""
    found, tree = jax.tree_util.tree_flatten_with_path((args, kwargs), is_leaf=is_leaf)
    arrays = [x for _, x in found if _is_array(x)]
    paths = [_path(path) for path, x in found if _is_array(x)]
    return Call(fn, arrays, paths, tuple(_ARRAY if _is_array(x) else x for _, x in found), tree)


def _path(path: tuple[Any, ...]) -> str:
    """The path inside the argument: that of params in fn(params, ...) is as in params itself."""
    inside = path_text(path[2:])
    number = getattr(path[1], "idx", None)
    if number == 0:
        return inside
    name = f"argument {number}" if number is not None else str(path[1].key)
    return f"{name}/{inside}" if inside else name


def named(path: str) -> str:
    """The path for people to read: that of a lone array or leaf, the first argument, is empty."""
    return path or "argument 0"


def check_takes_leaves(function: Any, what: str) -> None:
    """UnsupportedInput for what cannot be called as function(path, leaf)."""
    why = f"expected {what}, a function (path, leaf) -> bool, got {function!r}"
    if not callable(function):
        raise UnsupportedInput(f"{why}; pass lambda path, leaf: path.endswith('kernel'), say")
    if not takes(function, 2):
        raise UnsupportedInput(f"{why}, which does not take both; give it the two arguments")


def takes(function: Callable[..., Any], count: int) -> bool:
    """Whether it can be called with so many arguments; True where nothing says how."""
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:  # some of those that are built in have no signature
        return True
    return True


def _is_array(x: Any) -> bool:
    if isinstance(x, np.ndarray | np.generic):
        return x.dtype.kind in "biufcV"  # V: bfloat16 and its like; text and objects stay
    return isinstance(x, Leaf | jax.Array | jax.ShapeDtypeStruct)


def _shape(x: Any) -> Any:
    """What fn is traced with: a compressed leaf's dense shape, or the array itself.

    Under shard_map, and where meshes are explicit, types also say over which axes of a mesh a value
    varies: the weight over those that any of its parts does.
    """
    if not isinstance(x, Leaf):
        return x
    types = [jax.typeof(part) for part in x.parts]
    kinds = [kind.manual_axis_type for kind in types]
    varying = frozenset().union(*(kind.varying for kind in kinds))
    like = next((kind for kind in kinds if kind.varying == varying), kinds[0])
    if like.varying != varying:
        like = jax.typeof(align(*x.parts)[0]).manual_axis_type
    sharding = NamedSharding(types[0].sharding.mesh, _spec(x, types))
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding, manual_axis_type=like)


def _spec(leaf: Leaf, types: list[Any]) -> PartitionSpec:
    """How the dense weight lies on an explicit mesh: each free axis as the parts that have it."""
    entries = [None] * leaf.ndim
    for axis in leaf.layout.free:
        place = part_axis(leaf.packed, axis)
        named = [kind.sharding.spec[place] for kind in types if kind.sharding.spec[place]]
        entries[axis] = named[0] if named else None
    return PartitionSpec(*entries)


class Cached:
    """run(call, arrays) -> (results, Traced), compiled once per structure outside of any trace."""

    # Python numbers that change from call to call would keep a program each.
    MOST = 64

    def __init__(self, run: Callable[..., Any]):
        self.run = run
        self.programs: dict[Any, Any] = {}

    def __call__(self, call: Call) -> Any:
        parts = jax.tree.leaves(call.arrays)
        if any(isinstance(x, jax.core.Tracer | jax.ShapeDtypeStruct) for x in parts):
            results, traced = self.run(call, call.arrays)
            return traced.rebuild(results)
        shapes = tuple((x.shape, x.dtype, getattr(x, "weak_type", False)) for x in parts)
        static = tuple((type(x), x) for x in call.static)  # 1, 1.0 and True are not the same
        key = (static, call.tree, jax.tree.structure(call.arrays), shapes)
        try:
            known = self.programs.get(key)
        except TypeError:  # a static value that cannot be hashed: nothing to remember it by
            known, key = None, None
        if known is None:
            known = self._program(call._replace(arrays=[]))  # no program keeps its first weights
            if key is not None:
                if len(self.programs) >= self.MOST:
                    del self.programs[next(iter(self.programs))]
                self.programs[key] = known
        compiled, rebuild = known
        results = compiled(call.arrays)
        return rebuild[0](results)

    def _program(self, call: Call) -> tuple[Callable[..., Any], list[Any]]:
        rebuild = []

        def program(arrays):
            results, traced = self.run(call, arrays)
            rebuild[:] = [traced.rebuild]
            return results

        return jax.jit(program), rebuild
