"""Steps coded against a whole one: fewer bytes, the same bits, and no step that needs another."""

import os
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

import jaxcomp as jc
from jaxcomp.base import CorruptStream, UnsupportedInput
from tests.io.orbax_trees import arguments, place, same

FILE, BASE = "jaxcomp.arrays.0.jxc", "jaxcomp.base.arrays.0.jxc"
RANDOM = np.random.default_rng(0)
W = RANDOM.normal(size=(128, 64)).astype(np.float32)
STEP = RANDOM.normal(size=W.shape).astype(np.float32) * 1e-4  # changes low bits, as training does


def tree(step, devices=8):
    w = W + np.float32(step) * STEP
    return {
        "w": place(w, devices, "data", "model"),
        "b": place(w[0], devices),
        "numpy": w.copy(),
    }


def begun(folder, steps, *, every=3, keep=2):
    """Save steps; returns the folders of what a manager keeps."""
    options = ocp.CheckpointManagerOptions(max_to_keep=keep)
    handler = jc.io.orbax_handler(whole_every=every)
    with ocp.CheckpointManager(folder, item_handlers=handler, options=options) as manager:
        for step in steps:
            manager.save(step, args=ocp.args.PyTreeSave(tree(step)))
        manager.wait_until_finished()
        return {step: folder / str(step) / "default" for step in manager.all_steps()}


def test_steps_are_smaller_and_outlive_the_whole_one(tmp_path):
    kept = begun(tmp_path / "run", range(8))  # 0, 3 and 6 are whole
    assert list(kept) == [6, 7]
    whole, delta = kept[6], kept[7]
    assert not (whole / BASE).exists() and os.path.samefile(delta / BASE, whole / FILE)
    assert (whole / FILE).stat().st_size > 1.3 * (delta / FILE).stat().st_size
    shutil.rmtree(tmp_path / "run" / "6")
    shutil.copytree(delta, tmp_path / "copy")
    with ocp.Checkpointer(jc.io.orbax_handler()) as checkpointer:
        for folder in (delta, tmp_path / "copy"):
            for devices in (1, 2, 8):
                wanted = tree(7, devices)
                same(checkpointer.restore(folder, args=arguments(wanted)), wanted)


def test_one_step_kept_is_whole_in_itself(tmp_path):
    kept = begun(tmp_path / "run", range(6), every=10, keep=1)  # the first is gone since long
    assert list(kept) == [5] and (kept[5] / BASE).exists()
    with ocp.Checkpointer(jc.io.orbax_handler()) as checkpointer:
        same(checkpointer.restore(kept[5], args=arguments(tree(5))), tree(5))
    shutil.rmtree(tmp_path / "run")
    kept = begun(tmp_path / "run", range(2), every=1)
    assert not any((folder / BASE).exists() for folder in kept.values())


def test_without_its_base_or_with_another_it_is_refused_by_name(tmp_path):
    folder = begun(tmp_path / "run", range(2))[1]
    (folder / BASE).unlink()
    with ocp.Checkpointer(jc.io.orbax_handler()) as checkpointer:
        with pytest.raises(CorruptStream, match=r"(w|b): expected the whole file that it is coded"):
            checkpointer.restore(folder, args=arguments(tree(1)))
        assert checkpointer.metadata(folder).item_metadata.tree["w"].shape == W.shape
        shutil.copyfile(begun(tmp_path / "other", [5])[5] / FILE, folder / BASE)
        with pytest.raises(CorruptStream, match="expected the base of SHA-256"):
            checkpointer.restore(folder, args=arguments(tree(1)))


def test_where_a_base_was_removed_or_replaced_the_next_save_is_whole(tmp_path):
    handler = jc.io.orbax_handler(whole_every=9)
    with ocp.Checkpointer(handler) as checkpointer:

        def saved(name):
            checkpointer.save(tmp_path / name, args=ocp.args.PyTreeSave(tree(1)), force=True)
            return (tmp_path / name / BASE).exists()

        assert not saved("a") and saved("b") and saved("a")  # over its own base
        for name in "ab":
            same(checkpointer.restore(tmp_path / name, args=arguments(tree(1))), tree(1))
            shutil.rmtree(tmp_path / name)
        assert not saved("c")
        data = bytearray((tmp_path / "c" / FILE).read_bytes())
        data[len(data) // 2] ^= 1  # in a chunk: the index is whole
        (tmp_path / "c" / FILE).write_bytes(data)
        assert not saved("d") and saved("e")
        other = {"other": jax.numpy.ones(3)}
        checkpointer.save(tmp_path / "f", args=ocp.args.PyTreeSave(other))
        assert not (tmp_path / "f" / BASE).exists()  # of other leaves


def test_where_files_cannot_be_linked_it_says_so_at_once(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", fail)
    with ocp.Checkpointer(jc.io.orbax_handler(whole_every=2)) as checkpointer:
        with pytest.raises(UnsupportedInput, match="a file system with hard links"):
            checkpointer.save(tmp_path / "x", args=ocp.args.PyTreeSave(tree(0)))
    with pytest.raises(UnsupportedInput, match="whole_every of at least 1, got 0"):
        jc.io.orbax_handler(whole_every=0)
