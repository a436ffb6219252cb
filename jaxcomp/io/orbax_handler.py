"""Orbax checkpoints whose arrays go through the lossless chunk coder, shard by shard.

    handler = jc.io.orbax_handler()
    with ocp.CheckpointManager(folder, item_handlers=handler, options=options) as manager:
        manager.save(step, args=ocp.args.PyTreeSave(state))
        ...
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)   # or of other shardings
        state = manager.restore(
            manager.latest_step(),
            args=ocp.args.PyTreeRestore(
                shapes, restore_args=ocp.checkpoint_utils.construct_restore_args(shapes)
            ),
        )

The same handler goes to `ocp.AsyncCheckpointer(handler)` and `ocp.Checkpointer(handler)`. It is
Orbax's own for pytrees with other handlers of jax.Array and np.ndarray; nothing is registered for
the process. Folders, steps, what is kept, atomic renames and waiting stay Orbax's: a save that is
killed leaves the folder that Orbax would. Its arguments are PyTreeSave and PyTreeRestore;
StandardSave, of a handler that takes no others for leaves, fails in Orbax with an AttributeError.
Managers in several threads of a process must not begin to save at once: with any handler, Orbax
numbers its operations for the whole process, and mixes up their folders.

Every process writes one file, `jaxcomp.arrays.<process>.jxc` (shard_files.py), with the shards
that it has and no other writes: of replicas one, of many replicated leaves each process some.
`save` returns when the arrays are copied to the host; coding and writing follow in a thread.
Restoring asks for boxes, so neither devices nor processes need be those that saved.

With `whole_every=10` nine of ten saves hold what changed since the tenth, which every one of them
keeps as a hard link. Of a training run's parameters and Adam moments, 1, 10 and 100 steps after the
whole save, a save takes 1.22, 1.11 and 1.05 times fewer bytes in float32, 1.28, 1.13 and 1.05 in
bfloat16; saving takes 1.3 to 2 times as long, restoring 1.7 to 3.4 times. It pays where many steps
are kept that lie near each other: a manager that keeps one has a delta and its base, more than a
whole step.

A small network and its Adam moments after 20 steps, in 8 shards a leaf: 0.62 of the bytes in
bfloat16, where Orbax's zarr with zstd has 0.75, and 0.81 against 0.92 in float32; 1,000 leaves in
8,000 shards of 50 floats: 2.3 MB against 11.9. The first save and the first restore of a process
compile the coder, half a second for each kind of chunk.

Beside it stands what Orbax needs to list the leaves where jaxcomp is not installed
(orbax_outline.py): metadata has names, shapes, dtypes and shardings then, and restoring raises.
"""

import contextlib
import dataclasses
import io
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxcomp.base import CorruptStream, UnsupportedInput
from jaxcomp.io.orbax_deltas import BASE, Bases
from jaxcomp.io.orbax_outline import PROCESS, write_outline, write_shardings
from jaxcomp.io.shard_files import Box, Leaf, Shards, box_of, open_shards, write_shards
from jaxcomp.io.tensor_rows import EXPANSION, PLENTY, check_room

FILE = "jaxcomp.{}.{}.jxc"  # kind, process
ARRAYS, NUMPY = "arrays", "numpy"


def orbax_handler(
    *, whole_every: int = 1, max_nbytes: int | None = None
) -> ocp.PyTreeCheckpointHandler:
    """What a checkpointer takes: saves and restores arrays bit for bit, in fewer bytes.

    Any dtype that jax has, random keys, arrays of no size, compressed leaves, optimizer states.
    Numbers and strings are saved as Orbax does, and so are its checkpoints restored; what was saved
    as a number can be asked for as an array of one value, and the other way round.

    whole_every: of so many saves one is whole, and the others are coded against it, chunk by chunk
        where that is smaller. Every step stays complete by its folder alone: it holds a hard link
        to the whole file, which the removal of the whole step leaves in place (orbax_deltas.py).
    max_nbytes: what leaves may take together when the caller names no shape for them; by default
        4 GiB, or 16 times the files where that is more.

    Raises CorruptStream, with the leaf's name, for bytes that no save wrote and for files that are
    missing, the base among them; UnsupportedInput for a shape other than the saved one, for arrays
    of one process among several, and for whole_every where files cannot be linked.
    """
    known = ocp.type_handlers.supported_types()
    handlers = {kind: ocp.type_handlers.get_type_handler(kind) for kind in known}
    handlers |= dict.fromkeys((int, float, np.number), _ScalarHandler())
    bases = Bases(whole_every)
    handlers[np.ndarray] = _NumpyHandler(max_nbytes, bases)
    handlers[jax.Array] = _ArrayHandler(max_nbytes, bases)
    registry = ocp.type_handlers.create_type_handler_registry(*handlers.items())
    return ocp.PyTreeCheckpointHandler(type_handler_registry=registry)


class _ArrayHandler(ocp.type_handlers.ArrayHandler):
    """jax.Array: what Orbax asks of the handler of a type."""

    def __init__(self, max_nbytes: int | None, bases: Bases):
        super().__init__()
        self._max_nbytes, self._bases = max_nbytes, bases

    async def metadata(self, infos: Sequence[Any]) -> Sequence[Any]:
        return _with_dtypes(await super().metadata(infos), infos)

    async def serialize(
        self, values: Sequence[Any], infos: Sequence[Any], args: Any = None
    ) -> Sequence[Any]:
        args = args or [ocp.SaveArgs()] * len(values)
        leaves = _on_host(values, [info.name for info in infos], [arg.dtype for arg in args])
        shardings = {info.name: x.sharding for x, info in zip(values, infos, strict=True)}
        place = ARRAYS, jax.process_index(), jax.process_count()
        job = _write(infos, leaves, place, shardings, self._bases)
        return [ocp.future.CommitFutureAwaitingContractedSignals(job, name="jaxcomp_arrays")]

    async def deserialize(self, infos: Sequence[Any], args: Any = None) -> Sequence[Any]:
        args = args or [ocp.ArrayRestoreArgs()] * len(infos)
        return await _deserialized(infos, args, self._read, super().deserialize)

    async def _read(self, found, infos, args):
        if any(_sharding(arg) is None for arg in args):
            saved = [meta.sharding for meta in await self.metadata(infos)]
        else:
            saved = [None] * len(infos)
        room = _Room(self._max_nbytes, found)
        asked = zip(infos, args, saved, strict=True)
        return [_restored(found, info.name, arg, s, room) for info, arg, s in asked]


class _NumpyHandler(ocp.type_handlers.NumpyHandler):
    """np.ndarray, which process 0 writes."""

    def __init__(self, max_nbytes: int | None, bases: Bases):
        super().__init__()
        self._max_nbytes, self._bases = max_nbytes, bases

    async def metadata(self, infos: Sequence[Any]) -> Sequence[Any]:
        return _with_dtypes(await super().metadata(infos), infos)

    async def serialize(
        self, values: Sequence[Any], infos: Sequence[Any], args: Any = None
    ) -> Sequence[Any]:
        if jax.process_index():
            return []
        args = args or [ocp.SaveArgs()] * len(values)
        leaves = []
        for x, info, arg in zip(values, infos, args, strict=True):
            x = np.array(x, arg.dtype)  # a copy: the caller may write to its own
            x = x.astype(x.dtype.newbyteorder("<"), copy=False)
            box = Box((0,) * x.ndim, x.shape)
            leaves.append(Leaf(info.name, x.dtype, x.shape, None, [(box, x)]))
        job = _write(infos, leaves, (NUMPY, 0, 1), {}, self._bases)
        return [ocp.future.CommitFutureAwaitingContractedSignals(job, name="jaxcomp_numpy")]

    async def deserialize(self, infos: Sequence[Any], args: Any = None) -> Sequence[Any]:
        args = args or [ocp.RestoreArgs()] * len(infos)
        return await _deserialized(infos, args, self._read, super().deserialize)

    async def _read(self, found, infos, args):
        out, room = [], _Room(self._max_nbytes, found)
        for info, arg in zip(infos, args, strict=True):
            shards, leaf = _find(found, info.name)
            box = Box((0,) * len(leaf.shape), leaf.shape)
            room.take([box], leaf.dtype)
            out.append(shards.read(leaf.name, [box])[0].astype(arg.dtype or leaf.dtype, copy=False))
        return out


class _ScalarHandler(ocp.type_handlers.ScalarHandler):
    """Numbers, which Orbax writes; and arrays of one value where a number is asked for."""

    async def deserialize(self, infos: Sequence[Any], args: Any = None) -> Sequence[Any]:
        args = args or [ocp.RestoreArgs()] * len(infos)
        return await _deserialized(infos, args, self._read, super().deserialize)

    async def _read(self, found, infos, args):
        out = []
        for info, arg in zip(infos, args, strict=True):
            shards, leaf = _find(found, info.name)
            if leaf.shape:
                raise UnsupportedInput(
                    f"{leaf.name}: expected one value for a number, got an array {leaf.shape}; "
                    "ask for an array"
                )
            number = shards.read(leaf.name, [Box((), ())])[0].item()
            out.append(arg.restore_type(number) if arg.restore_type else number)
        return out


class _Room:
    """How much a file alone may make us allocate."""

    def __init__(self, limit: int | None, found: list[Shards]):
        nbytes = sum(shards.nbytes for shards in found)
        self.limit = max(PLENTY, EXPANSION * nbytes) if limit is None else limit
        self.taken = 0

    def take(self, boxes: list[Box], dtype: np.dtype) -> None:
        self.taken += sum(int(np.prod(box.shape, dtype=object)) for box in boxes) * dtype.itemsize
        check_room(self.taken, self.limit)


def _on_host(values, names, dtypes):
    """Leaves with the shards that this process writes, copied: buffers may be donated from now."""
    arrays = []
    for x, name in zip(values, names, strict=True):
        if jax.process_count() > 1 and x.is_fully_addressable:
            raise UnsupportedInput(
                f"{name}: expected an array of all {jax.process_count()} processes, got one of "
                "this process alone; make it global with jax.make_array_from_process_local_data"
            )
        random = jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
        key = str(jax.random.key_impl(x)) if random else None
        arrays.append((jax.random.key_data(x) if random else x, key))
    mine = []
    for number, (x, _) in enumerate(arrays):
        boxes = {box_of(i, x.shape) for i in x.sharding.devices_indices_map(x.shape).values()}
        # Every replica has all that is in the others: they take turns, leaf by leaf.
        turn = number % max(1, len(x.sharding.device_set) // len(boxes))
        mine.append([shard for shard in x.addressable_shards if shard.replica_id == turn])
        for shard in mine[-1]:
            shard.data.copy_to_host_async()  # all begin before one is waited for
    leaves = []
    for (x, key), name, dtype, shards in zip(arrays, names, dtypes, mine, strict=True):
        dtype = x.dtype if dtype is None or key else np.dtype(dtype)
        cells = [(box_of(s.index, x.shape), _copied(s.data, dtype)) for s in shards]
        leaves.append(Leaf(name, dtype, x.shape, key, cells))
    return leaves


def _copied(data, dtype):
    """A shard in memory that no device writes to."""
    x = np.asarray(data)
    if x.dtype != dtype:
        return x.astype(dtype)
    return x.copy() if data.device.platform == "cpu" else x  # on the CPU it is jax's own memory


async def _write(infos, leaves, place, shardings, bases):
    """The file of one process and, by the first, the outline for those without jaxcomp."""
    for info in infos:
        await info.await_path_creation()
    kind, process, processes = place
    folder = infos[0].parent_dir
    if process == 0:
        await write_outline(folder, kind, leaves, infos[0].ts_context)
        if kind == ARRAYS:
            write_shardings(folder, shardings)
    name, names = FILE.format(kind, process), tuple(leaf.name for leaf in leaves)
    with (
        bases.of(folder, name, BASE.format(kind, process), names) as base,
        (folder / name).open("wb") as file,
    ):
        write_shards(file, leaves, process, processes, base=base)
        file.flush()
        with contextlib.suppress(AttributeError, io.UnsupportedOperation):  # not on this disk
            os.fsync(file.fileno())


def _open_all(folder, stack):
    """The shards of a checkpoint; none for one that Orbax wrote itself."""
    return [
        stack.enter_context(
            open_shards(
                lambda k, kind=kind: (folder / FILE.format(kind, k)).open("rb"),
                lambda k, kind=kind: (folder / BASE.format(kind, k)).open("rb"),
            )
        )
        for kind in (ARRAYS, NUMPY)
        if any((folder / x.format(kind, 0)).exists() for x in (FILE, PROCESS))
    ]


async def _deserialized(infos, args, read, read_others):
    """read(found, infos, args) of leaves that are in our files, read_others(infos, args) of those
    that Orbax wrote: numbers, and all of its own checkpoints."""
    with contextlib.ExitStack() as stack:
        found = _open_all(infos[0].parent_dir, stack)
        pairs = list(zip(infos, args, strict=True))
        ours = [any(info.name in shards.leaves for shards in found) for info in infos]
        mine = [pair for pair, our in zip(pairs, ours, strict=True) if our]
        rest = [pair for pair, our in zip(pairs, ours, strict=True) if not our]
        done = iter(await read(found, *zip(*mine, strict=True)) if mine else ())
        others = iter(await read_others(*map(list, zip(*rest, strict=True))) if rest else ())
        return [next(done if our else others) for our in ours]


def _find(found, name):
    return next((shards, shards.leaves[name]) for shards in found if name in shards.leaves)


def _with_dtypes(metas, infos):
    """Metadata with the dtypes that zarr has no name for."""
    with contextlib.ExitStack() as stack:
        leaves = {
            name: leaf
            for shards in _open_all(infos[0].parent_dir, stack)
            for name, leaf in shards.leaves.items()
        }
        return [
            dataclasses.replace(meta, shape=leaf.shape, dtype=leaf.dtype) if leaf else meta
            for meta, leaf in ((meta, leaves.get(meta.name)) for meta in metas)
        ]


def _sharding(arg):
    """Where a leaf is to go, as the caller says."""
    if getattr(arg, "mesh", None) is not None and getattr(arg, "mesh_axes", None) is not None:
        return jax.sharding.NamedSharding(arg.mesh, arg.mesh_axes)
    return getattr(arg, "sharding", None)


def _restored(found, name, arg, saved, room):
    """One jax.Array of the checkpoint."""
    shards, leaf = _find(found, name)
    sharding = _sharding(arg) or saved
    if isinstance(sharding, ocp.metadata.ShardingMetadata):
        with contextlib.suppress(ValueError):  # devices that are not here
            sharding = sharding.to_jax_sharding()
    if not isinstance(sharding, jax.sharding.Sharding):
        raise UnsupportedInput(
            f"{name}: expected a sharding on devices of this run, got {sharding!r:.80}; pass "
            "restore_args=ocp.checkpoint_utils.construct_restore_args(shapes with shardings)"
        )
    random = arg.dtype is not None and jax.dtypes.issubdtype(arg.dtype, jax.dtypes.prng_key)
    dtype = leaf.dtype if random or arg.dtype is None else np.dtype(arg.dtype)
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise UnsupportedInput(
            f"{name}: expected a dtype that jax has as it is set up, got {dtype}; set "
            "jax_enable_x64, or restore as np.ndarray"
        )
    asked = None if random else getattr(arg, "global_shape", None)
    shape = leaf.shape if asked is None else tuple(asked)
    if len(shape) != len(leaf.shape) or (shape != leaf.shape and arg.strict):
        raise UnsupportedInput(
            f"{name}: expected the saved shape {leaf.shape}, got {shape}; pass strict=False to cut "
            "or pad with zeros"
        )
    local = sharding.addressable_devices_indices_map(shape).values()
    boxes = list(dict.fromkeys(box_of(index, shape) for index in local))
    if asked is None:
        room.take(boxes, leaf.dtype)
    parts = dict(zip(boxes, shards.read(name, boxes), strict=True))
    x = jax.make_array_from_callback(
        shape, sharding, lambda index: parts[box_of(index, shape)].astype(dtype, copy=False)
    )
    if leaf.key is None:
        return x
    try:
        return jax.random.wrap_key_data(x, impl=leaf.key)
    except (TypeError, ValueError) as error:
        raise CorruptStream(f"{name}: expected data of random keys, got other: {error}") from error
