"""What Orbax lists of a checkpoint that it cannot read."""

import copy

import numpy as np
import orbax.checkpoint as ocp
import pytest

import jaxcomp as jc
from jaxcomp.io.orbax_outline import _zarr_name
from tests.io.orbax_trees import a_tree


def test_metadata_lists_without_this_library_which_it_needs_to_restore(tmp_path):
    tree = a_tree(8)
    with ocp.Checkpointer(jc.io.orbax_handler()) as checkpointer:
        checkpointer.save(tmp_path / "x", args=ocp.args.PyTreeSave(tree))
        ours = checkpointer.metadata(tmp_path / "x").item_metadata.tree
        checkpointer.save(tmp_path / "y", args=ocp.args.PyTreeSave({"n": np.arange(3)}))
    with ocp.PyTreeCheckpointer() as plain:
        theirs = plain.metadata(tmp_path / "x").item_metadata.tree
        with pytest.raises(ValueError, match="decompress"):
            plain.restore(tmp_path / "y")
    assert set(ours) == set(theirs) == set(tree)
    unknown = {"uint2", "uint4", "float8_e4m3"}  # to tensorstore
    for name, x in tree.items():
        if hasattr(x, "dtype") and name != "keys":
            assert ours[name].shape == theirs[name].shape == x.shape
            assert ours[name].dtype == x.dtype
            assert theirs[name].dtype == (np.uint8 if name in unknown else x.dtype)
    assert ours["int8"].sharding.to_jax_sharding() == tree["int8"].sharding
    assert theirs["int8"].sharding == ours["int8"].sharding


def test_a_copied_dtype_has_the_name_of_its_original():
    for name in ("float16", "bfloat16", "uint4"):
        dtype = np.dtype(name)
        assert _zarr_name(copy.deepcopy(dtype)) == _zarr_name(dtype)
    assert _zarr_name(np.dtype("float16")) == "<f2"
