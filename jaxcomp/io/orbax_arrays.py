"""The arrays of an Orbax checkpoint one by one, each read when its turn comes.

    jc.io.save_tensors("step_300.jxc", orbax_arrays("run/checkpoints/300"))

A leaf's name is its path: params/dense/kernel, opt_state/0/mu/w. What Orbax wrote is read, and what
it wrote through our handler (orbax_handler.py); shardings are not kept, arrays are whole.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator

import jax
import numpy as np

from jaxcomp.base import JaxcompError, UnsupportedInput
from jaxcomp.io.model_survey import SUFFIXES
from jaxcomp.tree import path_text

METADATA = "_METADATA"  # in the folder of each item that is a tree


def orbax_arrays(
    folder: str | os.PathLike[str],
) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
    """(path, function that reads the array) of every leaf; no two need be in memory.

    folder: of an item, or a step with one item. Raises UnsupportedInput for other folders, naming
    those inside that may be meant, and for leaves that are no arrays or numbers.
    """
    from etils import epath

    from jaxcomp.io.orbax_handler import orbax_handler

    item = epath.Path(_item(os.path.abspath(folder)))
    with contextlib.closing(orbax_handler()) as reader:
        tree = reader.metadata(item).tree
        found, structure = jax.tree_util.tree_flatten_with_path(tree)
        for path, leaf in found:
            name = path_text(path) or "array"
            if not hasattr(leaf, "shape") or leaf.shape is None or leaf.dtype is None:
                raise UnsupportedInput(
                    f"{folder}: expected arrays and numbers, got {type(leaf).__name__} in {name}"
                )
            yield name, functools.partial(_restored, reader, item, found, structure, name)


def is_orbax(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder is one that Orbax made: of an item, a step, or all steps of a run.

    One with a file of arrays beside checkpoints is none: of it every byte is kept.
    """
    if any(os.path.splitext(name)[1].lower() in SUFFIXES for name in os.listdir(folder)):
        return False
    inside = [entry.path for entry in os.scandir(folder) if entry.is_dir()]
    deeper = [entry.path for path in inside for entry in os.scandir(path) if entry.is_dir()]
    return any(os.path.exists(os.path.join(x, METADATA)) for x in (folder, *inside, *deeper))


def _item(folder: str) -> str:
    """The folder of the item that is meant."""
    if os.path.exists(os.path.join(folder, METADATA)):
        return folder
    names = sorted(os.listdir(folder))
    items = [name for name in names if os.path.exists(os.path.join(folder, name, METADATA))]
    if len(items) == 1:
        return os.path.join(folder, items[0])
    choices = items or [name for name in names if os.path.isdir(os.path.join(folder, name))]
    raise UnsupportedInput(
        f"expected one step or item of an Orbax checkpoint, got {folder} with "
        f"{', '.join(map(ascii, choices[:8])) or 'none'} inside; name one of them"
    )


def _restored(reader, item, found, structure, name):
    """One leaf; placeholders keep the others where they are."""
    import orbax.checkpoint as ocp

    names = [path_text(path) or "array" for path, _ in found]
    k = names.index(name)
    wanted = [leaf if i == k else ocp.PLACEHOLDER for i, (_, leaf) in enumerate(found)]
    arguments = [ocp.RestoreArgs(restore_type=np.ndarray) for _ in found]
    try:
        tree = reader.restore(
            item,
            args=ocp.args.PyTreeRestore(
                jax.tree.unflatten(structure, wanted),
                restore_args=jax.tree.unflatten(structure, arguments),
            ),
        )
    except (JaxcompError, OSError):
        raise
    except Exception as error:  # Orbax and TensorStore raise what they find
        raise UnsupportedInput(f"{item}: cannot restore {name}: {error}") from None
    return np.asarray(jax.tree.leaves(tree)[k])
