"""Orbax checkpoints through the chunk coder: the same bits on any devices, saved as Orbax saves."""

import importlib
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

import jaxcomp as jc
from jaxcomp.base import CorruptStream, UnsupportedInput
from jaxcomp.io.shard_files import write_shards
from tests.io.orbax_trees import FEW, MESHES, NARROW, a_tree, arguments, bits, place, same


def test_bits_come_back_on_any_devices(tmp_path):
    with ocp.Checkpointer(jc.io.orbax_handler()) as checkpointer:
        for devices in MESHES:
            folder, dtypes = tmp_path / str(devices), NARROW if devices == 8 else FEW
            saved = a_tree(devices, dtypes=dtypes)
            checkpointer.save(folder, args=ocp.args.PyTreeSave(saved))
            for others in MESHES:
                wanted = a_tree(others, turned=others != devices, dtypes=dtypes)
                same(checkpointer.restore(folder, args=arguments(wanted)), wanted)
        # Without a target: what was saved where it was; and any array as one of NumPy.
        same(checkpointer.restore(folder), saved)
        host = {"bfloat16": ocp.RestoreArgs(restore_type=np.ndarray)}
        found = checkpointer.restore(
            folder,
            args=ocp.args.PyTreeRestore({"bfloat16": 0}, restore_args=host, partial_restore=True),
        )
        assert bits(found["bfloat16"]) == bits(saved["bfloat16"])
        assert isinstance(found["bfloat16"], np.ndarray)


def test_nothing_is_registered_and_what_orbax_wrote_is_read(tmp_path):
    before = ocp.type_handlers.get_type_handler(jax.Array)
    handler = jc.io.orbax_handler()
    assert ocp.type_handlers.get_type_handler(jax.Array) is before
    tree = {"w": place(np.ones((4, 2), np.float32), 8, "data"), "n": np.arange(3), "s": 2}
    with ocp.PyTreeCheckpointer() as plain:
        plain.save(tmp_path / "x", tree)
    with ocp.Checkpointer(handler) as checkpointer:
        same(checkpointer.restore(tmp_path / "x", args=arguments(tree)), tree)
        assert checkpointer.metadata(tmp_path / "x").item_metadata.tree["w"].shape == (4, 2)


def test_numbers_and_arrays_of_one_value_are_asked_for_as_either(tmp_path):
    one = jax.ShapeDtypeStruct((), np.int32, sharding=place(0, 8).sharding)
    with ocp.Checkpointer(jc.io.orbax_handler()) as checkpointer:
        tree = {"number": 3, "array": jnp.float32(2.5), "numpy": np.array(7), "many": np.ones(2)}
        checkpointer.save(tmp_path / "x", args=ocp.args.PyTreeSave(tree))
        wanted = {"number": one, "array": 0.0, "numpy": 0, "many": tree["many"]}
        found = checkpointer.restore(tmp_path / "x", args=arguments(wanted))
        same(found, {"number": place(np.int32(3), 8), "array": 2.5, "numpy": 7, "many": np.ones(2)})
        with pytest.raises(UnsupportedInput, match=r"many: expected one value .* \(2,\)"):
            checkpointer.restore(tmp_path / "x", args=arguments({**wanted, "many": 0}))


def train_state():
    random = np.random.default_rng(1)
    w = random.normal(size=(64, 8)).astype(np.float32)
    params = {"w": place(w, 8, "data", "model"), "b": place(np.zeros(8, jnp.bfloat16), 8)}
    transform = optax.chain(jc.optim.adam8bit(1e-3))
    return {
        "params": params,
        "state": transform.init(params),
        "frozen": jc.formats.quantize(w, jc.formats.UINT4_G32),
        "random": jax.random.key(0),
    }


def test_a_manager_keeps_steps_of_a_train_state(tmp_path):
    options = ocp.CheckpointManagerOptions(max_to_keep=2, save_interval_steps=2)
    tree = train_state()
    handler = jc.io.orbax_handler()
    with ocp.CheckpointManager(tmp_path, item_handlers=handler, options=options) as manager:
        for step in range(7):
            moved = {**tree, "params": jax.tree.map(lambda x, k=step: x + k, tree["params"])}
            assert manager.save(step, args=ocp.args.PyTreeSave(moved)) == (step % 2 == 0)
        manager.wait_until_finished()
        assert manager.all_steps() == [4, 6]
    with ocp.CheckpointManager(tmp_path, item_handlers=handler, options=options) as manager:
        assert manager.latest_step() == 6
        same(manager.restore(6, args=arguments(moved)), moved)


def test_save_returns_before_anything_is_coded_and_donated_buffers_are_kept(tmp_path, monkeypatch):
    go = threading.Event()

    def later(*arguments, **options):
        assert go.wait(60)
        return write_shards(*arguments, **options)

    module = importlib.import_module("jaxcomp.io.orbax_handler")
    monkeypatch.setattr(module, "write_shards", later)
    x = place(np.arange(64, dtype=np.float32), 8, "data")
    wanted = np.asarray(x).copy()
    with ocp.AsyncCheckpointer(jc.io.orbax_handler()) as checkpointer:
        checkpointer.save(tmp_path / "x", args=ocp.args.PyTreeSave({"x": x}))
        y = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)(x)
        assert x.is_deleted() and float(y[0]) == -1
        assert not (tmp_path / "x").exists()  # not final
        go.set()
        checkpointer.wait_until_finished()
        found = checkpointer.restore(tmp_path / "x")
    np.testing.assert_array_equal(found["x"], wanted)


def test_replicas_are_written_once(tmp_path):
    tree = {
        "whole": place(np.zeros((4, 2), np.float32), 8),
        "rows": place(np.zeros((4, 2), np.float32), 8, "data"),
    }
    with ocp.Checkpointer(jc.io.orbax_handler()) as checkpointer:
        checkpointer.save(tmp_path / "x", args=ocp.args.PyTreeSave(tree))
    with jc.io.open_tensors(tmp_path / "x" / "jaxcomp.arrays.0.jxc") as file:
        names = file.names
    assert sorted(names) == sorted([*(f"rows[{k}:{k + 1},0:2]" for k in range(4)), "whole"])


def test_what_is_damaged_or_missing_or_asked_for_otherwise_is_told_by_name(tmp_path):
    tree = {"layer": {"w": place(np.arange(4096, dtype=np.int32), 8, "data")}}
    handler = jc.io.orbax_handler()
    with ocp.Checkpointer(handler) as checkpointer:
        folder = tmp_path / "x"
        checkpointer.save(folder, args=ocp.args.PyTreeSave(tree))
        other = {
            "layer": {"w": jax.ShapeDtypeStruct((4,), np.int32, sharding=place(0, 8).sharding)}
        }
        with pytest.raises(UnsupportedInput, match=r"layer.w: .*\(4096,\), got \(4,\)"):
            checkpointer.restore(folder, args=arguments(other))
        cut = checkpointer.restore(folder, args=arguments(other, strict=False))
        np.testing.assert_array_equal(cut["layer"]["w"], np.arange(4))
        with ocp.Checkpointer(jc.io.orbax_handler(max_nbytes=100)) as small:
            with pytest.raises(UnsupportedInput, match="max_nbytes"):
                small.restore(folder)
            same(small.restore(folder, args=arguments(tree)), tree)  # the caller names the shape
        path = folder / "jaxcomp.arrays.0.jxc"
        good = path.read_bytes()
        path.write_bytes(good[:200] + bytes([good[200] ^ 1]) + good[201:])
        with pytest.raises(CorruptStream, match=r"layer.w: .*CRC32"):
            checkpointer.restore(folder, args=arguments(tree))
        path.write_bytes(good[:-1])
        with pytest.raises(CorruptStream, match="truncated"):
            checkpointer.restore(folder, args=arguments(tree))
        path.unlink()
        with pytest.raises(CorruptStream, match="copy the whole checkpoint"):
            checkpointer.restore(folder, args=arguments(tree))
