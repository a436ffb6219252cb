"""Any array or tree of arrays <-> a .jxc file, bit for bit: checkpoints, weights, optimizer states.

    save_tensors("step_100.jxc", state)
    state = load_tensors("step_100.jxc", like=state)

    with open_tensors("step_100.jxc") as file:      # reads what is asked for
        w = file.read("params/dense/kernel")
        rows = file.read("params/embed", 1000, 1010)

    save_tensors("step_200.jxc", state, base="step_100.jxc")
    state = load_tensors("step_200.jxc", like=state, base="step_100.jxc")

What a number is made of decides how it is coded (coding/tensor_chunk.py); NaN payloads, -0.0 and
denormals stay. For compressed leaves with packed codes `save_weights` makes the smaller files.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from io import BufferedIOBase
from types import FunctionType
from typing import Any

import numpy as np

from jaxcomp import tree as trees
from jaxcomp.base import UnsupportedInput
from jaxcomp.coding.atomic import replacing
from jaxcomp.io import tree_nodes
from jaxcomp.io.error_bound import Bounded, is_float
from jaxcomp.io.target_ratio import Sink, Trial, find_bound
from jaxcomp.io.tensor_reader import Tensors, opened
from jaxcomp.io.tensor_rows import CHUNK_NBYTES
from jaxcomp.io.tensor_writer import TensorWriter
from jaxcomp.io.weights_file import check_tree, on_device, rebuilt

Path = str | os.PathLike[str]


def save_tensors(
    path: Path | BufferedIOBase,
    tree: Any,
    *,
    base: Any = None,
    bound: Any = None,
    target_ratio: float | int | None = None,
    where: Callable[[str, Any], bool] | None = None,
    threads: int | None = None,
    chunk_nbytes: int = CHUNK_NBYTES,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Write a tree of arrays and compressed leaves; returns the bytes of the file.

    path: replaced at once, or not at all; or a binary file that is open to write, such as a pipe.
    tree: a pytree, or an iterator of (name, array or function that returns one), which is taken
        one by one: then no two arrays need be in memory.
    base: a previous file, or what open_tensors made of it: what changed is coded where smaller, and
        the same base is needed to load. It is never the file that is replaced.
    bound: Absolute(e), Relative(r) or ValueRange(r), which no value of the float arrays exceeds
        (error_bound.py); None keeps all bits. where(path, array): the arrays that it is for.
    target_ratio: find the least bound at which the file is so many times smaller than the arrays;
        bound is then Absolute, Relative or ValueRange itself. Everything is coded 3 to 7 times.
    threads: by default one for each core, and at least two.

    Raises UnsupportedInput for what is no array, number, string or known compressed leaf.
    """
    with contextlib.ExitStack() as stack:
        before = opened(base, stack)
        if before is not None:
            before.check_target(path)
        options = {"base": before, "threads": threads, "chunk_nbytes": chunk_nbytes}
        if target_ratio is not None:
            bound = _found(tree, bound, where, target_ratio, options)
        named = isinstance(path, (str, os.PathLike))
        file = stack.enter_context(replacing(path)) if named else path
        lossy = None if bound is None else Bounded(bound)
        return _write(file, tree, lossy, where, {**options, "progress": progress})[0]


def _write(file, tree, lossy, where, options):
    """(bytes of the file, of the arrays)."""
    tree = tree() if isinstance(tree, FunctionType) else tree
    with TensorWriter(file, **options) as writer:
        if isinstance(tree, Iterator):
            names = []
            for name, x in tree:
                x = x() if callable(x) else x
                writer.add(name, x, **_coding(lossy, name, x, where))
                names.append(name)
            node = ["dict", {name: i for i, name in enumerate(names)}]
        else:
            nodes = _Lazy()
            node = nodes.node(tree)
            for name, x, free in _free(nodes.rows, tree):
                writer.add(name, x, **(_coding(lossy, name, x, where) if free else {}))
        said = dict if lossy is None else lossy.index  # when all is written
        return writer.finish(lambda: {"kind": "tree", "tree": node, **said()}), writer.nbytes


def _free(rows, tree):
    """(name, array, whether it is no part of a compressed leaf)."""
    compressed = [path for path, x in trees.leaves(tree) if trees.is_compressed(x)]
    for name, x in rows:
        yield name, x, not any(name.startswith(f"{leaf}/") for leaf in compressed)


def _chosen(name, x, where):
    return is_float(x) and (where is None or where(name, x))


def _coding(lossy, name, x, where):
    """How an array is written: without loss, or within the bound."""
    if lossy is None or not _chosen(name, x, where):
        return {}
    return {"encode": lossy.encoder(name, np.asarray(x))}


def _found(tree, kind, where, target_ratio, options):
    """The bound of a kind at which the file reaches the ratio."""
    if isinstance(tree, Iterator):
        raise UnsupportedInput(
            "expected a tree, or a function that gives the iterator, for it is taken several times "
            "to find the bound; got an iterator"
        )

    def arrays():
        again = tree() if isinstance(tree, FunctionType) else tree
        nodes = _Lazy()
        if not isinstance(again, Iterator):
            nodes.node(again)
            again = ((name, x) for name, x, free in _free(nodes.rows, again) if free)
        for name, x in again:
            x = x() if callable(x) else x
            if _chosen(name, x, where):
                yield np.asarray(x)

    def trial(bound):
        lossy = Bounded(bound)
        nbytes, original = _write(Sink(), tree, lossy, where, options)
        return Trial(original, nbytes, sum(lossy.coded_nbytes))

    return find_bound(kind, target_ratio, arrays, trial)


class _Lazy(tree_nodes.Writer):
    """Nodes with (name, array) as it came: no copy before its turn."""

    def _row(self, x, path, codes):
        return "/".join(path) or "array", x


def load_tensors(
    path: Path | BufferedIOBase,
    *,
    like: Any = None,
    base: Any = None,
    max_nbytes: int | None = None,
    threads: int | None = None,
) -> Any:
    """The tree of a file that save_tensors wrote, bit for bit, as jax arrays; {name: array} of
    others. Arrays of 64 bits are NumPy's where jax would narrow them.

    like: a tree of the same paths, for what is no dict, list or tuple (flax.struct, equinox
        modules, optimizer states).
    base: the file that a delta was made against, or what open_tensors made of it.
    max_nbytes: refuse to allocate more. By default 4 GiB, or 16 times the files where that is more.

    Raises CorruptStream for bytes that no writer made or another base, UnsupportedInput for other
    files and what exceeds the limit.
    """
    with open_tensors(path, base=base, max_nbytes=max_nbytes, threads=threads) as file:
        if "tree" not in file.index:
            arrays = map(on_device, file.arrays([file.row(name) for name in file.names]))
            saved = dict(zip(file.names, arrays, strict=True))
            return saved if like is None else tree_nodes.fill(saved, like)
        node = file.index["tree"]
        check_tree(node, file.rows)  # before anything is decoded
        saved = rebuilt(node, list(map(on_device, file.arrays(file.rows))))
    if like is not None:
        return tree_nodes.fill(saved, like)
    if name := tree_nodes.unnamed(saved):
        raise UnsupportedInput(
            f"expected like= for a tree with nodes of {ascii(name)}, got none; pass a tree of the "
            "same structure, such as freshly initialised params"
        )
    return saved


def open_tensors(
    path: Path | BufferedIOBase,
    *,
    base: Any = None,
    max_nbytes: int | None = None,
    threads: int | None = None,
) -> Tensors:
    """A file of tensors to read from; only the index is read now. Options as load_tensors."""
    return Tensors(path, base=base, max_nbytes=max_nbytes, threads=threads)
