"""Trees of arrays and compressed leaves: paths, selection, sizes.

Selection is a predicate where(path, leaf) -> bool everywhere; a path is the text of the keys,
joined by "/": params/Dense_0/kernel.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Where = Callable[[str, Any], bool]  # of a path and its leaf


def path_text(path: tuple[Any, ...]) -> str:
    """params/Dense_0/kernel, of a key path of jax.tree_util."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def is_compressed(x: Any) -> bool:
    """Whether x is a compressed leaf: something that jax.tree functions should not look into."""
    # Asked of the type: a variable of Flax answers for the leaf that it holds.
    return hasattr(type(x), "dense") and hasattr(type(x), "matmul")


def leaves(tree: Any) -> list[tuple[str, Any]]:
    """(path, leaf) of every array and compressed leaf."""
    found, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_compressed)
    return [(path_text(path), leaf) for path, leaf in found]


def map_where(function: Callable[[str, Any], Any], tree: Any, where: Callable[..., bool]) -> Any:
    """The tree with function(path, leaf) in place of every leaf that where(path, leaf) selects."""

    def each(path, leaf):
        path = path_text(path)
        return function(path, leaf) if where(path, leaf) else leaf

    return jax.tree_util.tree_map_with_path(each, tree, is_leaf=is_compressed)


def split(tree: Any, where: Callable[[str, Any], bool] | None = None) -> tuple[Any, Any]:
    """(what is trained, the rest): two trees of one structure, None where the other has the array.

    Looks into compressed leaves: where(path, array) selects arrays, by default those of floats, so
    scales, zeros and factors are trained and codes stay:

        trained, rest = split(small)
        gradients = jax.grad(lambda trained: loss(join(trained, rest)))(trained)
    """

    def chosen(path, x):
        if where is not None:
            return where(path_text(path), x)
        return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)

    found, structure = jax.tree_util.tree_flatten_with_path(tree)
    trained = [x if chosen(path, x) else None for path, x in found]
    rest = [x if t is None else None for t, (_, x) in zip(trained, found, strict=True)]
    return jax.tree.unflatten(structure, trained), jax.tree.unflatten(structure, rest)


def join(trained: Any, rest: Any) -> Any:
    """The tree that split took apart."""
    return jax.tree.map(
        lambda a, b: b if a is None else a, trained, rest, is_leaf=lambda x: x is None
    )


def nbytes(tree: Any) -> int:
    """Bytes of all arrays: codes, scales, zeros, tables and what is not compressed. In memory.

    Codes that are as likely as each other take as many bytes, to 1 %, in a .jxc file
    (jc.io.save_weights); others are entropy-coded there and take fewer: jc.io.coded_nbytes says how
    many, within 1 % of the file.
    """
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree) if hasattr(x, "dtype"))


def bits_per_weight(tree: Any) -> float:
    """8 * nbytes / values, over the compressed leaves; over all arrays if there are none."""
    every = [leaf for _, leaf in leaves(tree) if hasattr(leaf, "shape")]
    compressed = [leaf for leaf in every if is_compressed(leaf)] or every
    return 8 * nbytes(compressed) / max(1, sum(leaf.size for leaf in compressed))
