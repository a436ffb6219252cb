"""Arrays of Orbax checkpoints one by one, into .jxc files and out of them."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from safetensors.numpy import load_file

import jaxcomp as jc
from jaxcomp.io.orbax_arrays import is_orbax, orbax_arrays

TREE = {
    "params": {"w": jnp.arange(600, dtype=jnp.bfloat16).reshape(20, 30), "b": np.arange(5.0)},
    "opt": [jnp.zeros(3), {"n": jnp.int32(4)}],
    "none": None,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with steps 3 and 4, of which the last went through our handler."""
    folder = tmp_path_factory.mktemp("run")
    handlers = {3: ocp.PyTreeCheckpointHandler(), 4: jc.io.orbax_handler()}
    for step, handler in handlers.items():
        with ocp.CheckpointManager(folder, item_handlers=handler) as manager:
            manager.save(step, args=ocp.args.PyTreeSave(TREE))
            manager.wait_until_finished()
    return folder


@pytest.mark.parametrize("step", [3, 4])
def test_every_array_is_read_bit_for_bit(run, step):
    leaves = {"opt/0": TREE["opt"][0], "opt/1/n": TREE["opt"][1]["n"]}
    leaves |= {f"params/{name}": TREE["params"][name] for name in "bw"}
    found = {name: read() for name, read in orbax_arrays(run / str(step))}
    assert set(found) == set(leaves)
    for name, x in leaves.items():
        assert isinstance(found[name], np.ndarray) and found[name].dtype == x.dtype
        assert found[name].tobytes() == np.asarray(x).tobytes()


def test_a_step_becomes_a_jxc_file_and_safetensors(run, tmp_path):
    done = jc.io.compress_file(run / "3", tmp_path / "x.jxc")
    assert (done.arrays, done.original_nbytes) == (4, 1200 + 40 + 12 + 4)
    back = jc.io.load_tensors(tmp_path / "x.jxc", like=TREE)
    assert jax.tree.all(jax.tree.map(np.array_equal, back, TREE))
    jc.io.decompress_file(tmp_path / "x.jxc", tmp_path / "x.safetensors")
    assert load_file(tmp_path / "x.safetensors")["params/b"].tolist() == [*range(5)]
    done = jc.io.compress_file(run / "4", tmp_path / "y.jxc", base=tmp_path / "x.jxc")
    assert done.arrays == 4


def test_folders_that_are_no_step_are_named(run, tmp_path):
    assert is_orbax(run) and is_orbax(run / "3") and not is_orbax(tmp_path)
    shutil.copytree(run / "3", tmp_path / "model" / "3")
    assert is_orbax(tmp_path / "model")
    np.save(tmp_path / "model" / "w.npy", np.arange(3))
    assert not is_orbax(tmp_path / "model")
    assert jc.io.compress_file(tmp_path / "model", tmp_path / "model.jxc").files > 5
    shutil.rmtree(tmp_path / "model")
    for folder in (run, tmp_path):
        with pytest.raises(jc.UnsupportedInput, match="expected one step or item") as error:
            list(orbax_arrays(folder))
        assert ("'3', '4' inside" in str(error.value)) == (folder == run)
