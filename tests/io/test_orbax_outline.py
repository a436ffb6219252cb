"""What Orbax lists of a checkpoint that it cannot read."""

import numpy as np
import orbax.checkpoint as ocp
import pytest

import jaxcomp as jc
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
