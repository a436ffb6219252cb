"""compressed-tensors: what the package packed is read to its weights, and written bit for bit.

golden/compressed_tensors_v0.safetensors was written by compressed-tensors 0.20.0; WEIGHTS has the
dtype and the CRC-32, as float32, of the weights that its decompress gives.
"""

import zlib
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.base import CorruptStream, UnsupportedInput
from jaxcomp.io.compressed_tensors import E4M3, from_compressed_tensors, to_compressed_tensors

GOLDEN = Path(__file__).parent.parent / "golden" / "compressed_tensors_v0.safetensors"
WEIGHTS = {
    **{"p4": ("bfloat16", 4266470235), "p4z": ("float16", 205882371)},
    **{"p3z": ("float32", 2334200043), "p8": ("float16", 2040467643)},
    **{"i8": ("float16", 1833169788), "i8z": ("float16", 4280482207)},
    **{
        "f8": ("bfloat16", 2543685087),
        "f8t": ("float32", 4046982334),
        "mx": ("float32", 828257153),
    },
}
KINDS = {
    **{"p4": "pack-quantized", "p4z": "pack-quantized", "p3z": "pack-quantized"},
    **{"p8": "pack-quantized", "i8": "int-quantized", "i8z": "int-quantized"},
    **{"f8": "float-quantized", "f8t": "float-quantized", "nv": "nvfp4-pack-quantized"},
    "mx": "mxfp4-pack-quantized",
}


@pytest.fixture(scope="module")
def arrays():
    return {name: np.asarray(x) for name, x in jc.io.load_safetensors(GOLDEN).items()}


@pytest.fixture(scope="module")
def tree(arrays):
    return from_compressed_tensors(arrays)


@pytest.mark.parametrize("module", WEIGHTS)
def test_weights_are_those_of_the_tool(tree, module):
    dense, (dtype, crc) = np.asarray(tree[f"{module}.weight"].dense()), WEIGHTS[module]
    assert dense.dtype.name == dtype
    assert zlib.crc32(dense.astype(np.float32).tobytes()) == crc


def test_nvfp4_has_the_weights_of_the_tool_as_far_as_its_bfloat16_goes(tree):
    dense = np.asarray(tree["nv.weight"].dense())
    np.testing.assert_allclose(dense, tree["nv_dense"].astype(np.float32), rtol=2**-7)


@pytest.mark.parametrize("module", KINDS)
def test_arrays_come_back_bit_for_bit(arrays, tree, module):
    packed = not module.startswith("i8")
    back, config = to_compressed_tensors(
        {f"{module}.weight": tree[f"{module}.weight"]}, packed=packed
    )
    assert config["format"] == config["config_groups"]["group_0"]["format"] == KINDS[module]
    assert set(back) == {name for name in arrays if name.startswith(f"{module}.")}
    for name, x in back.items():
        assert x.dtype == arrays[name].dtype and x.shape == arrays[name].shape
        if name == "nv.weight_global_scale":  # 1 / (1 / x): the last bit
            np.testing.assert_allclose(x, arrays[name], rtol=2**-23)
            continue
        np.testing.assert_array_equal(x.view(np.uint8), arrays[name].view(np.uint8), err_msg=name)


def test_several_formats_in_one_file(arrays, tree):
    leaves = {name: x for name, x in tree.items() if name != "nv_dense"}
    back, config = to_compressed_tensors(leaves | {"embed.weight": np.ones((2, 3), np.float32)})
    groups = config["config_groups"].values()
    named = sorted(name for group in groups for name in group["targets"])
    assert config["format"] == "mixed-precision" and named == sorted(KINDS)
    assert config["ignore"] == ["embed"] and "head.bias" in back
    again = from_compressed_tensors(back, config)
    for name, leaf in leaves.items():
        if name.endswith(".weight"):
            np.testing.assert_array_equal(again[name].dense(), leaf.dense())


def test_a_weight_of_ours_there_and_back():
    w = jnp.asarray(np.random.default_rng(0).standard_normal((16, 64)), jnp.float32)
    formats = {"a": jc.formats.UINT4_G32, "b": jc.formats.INT8, "c": jc.formats.NVFP4}
    leaves = {f"{name}.weight": jc.formats.quantize(w, f, -1) for name, f in formats.items()}
    back = from_compressed_tensors(*to_compressed_tensors(leaves), dtype="float32")
    for name, leaf in leaves.items():
        # One part in 2**23: the global scale of nvfp4 divides there.
        np.testing.assert_allclose(back[name].dense(), leaf.dense(), rtol=1e-6)


def test_few_inputs_need_the_config():
    leaf = jc.formats.quantize(jnp.ones((4, 8)), jc.formats.INT4, -1)
    arrays, config = to_compressed_tensors({"a.weight": leaf})
    with pytest.raises(CorruptStream, match="pass config="):
        from_compressed_tensors(arrays)
    back = from_compressed_tensors(arrays, config)
    np.testing.assert_array_equal(back["a.weight"].dense(), leaf.dense().astype(jnp.bfloat16))


def test_scales_of_blocks_whose_last_is_cut_need_the_config():
    w = np.random.default_rng(0).standard_normal((192, 192)).astype(E4M3)
    scale = np.float32([[1, 2], [3, 4]])
    arrays = {"a.weight": w, "a.weight_scale": scale}
    with pytest.raises(CorruptStream, match="its block_structure"):
        from_compressed_tensors(arrays)
    for blocks in ([128, 128], "128x128"):
        config = {"config_groups": {"group_0": {"weights": {"block_structure": blocks}}}}
        back = from_compressed_tensors(arrays, config)["a.weight"]
        wide = np.kron(scale, np.ones((128, 128), np.float32))[:192, :192]
        np.testing.assert_array_equal(back.dense(), w.astype(np.float32) * wide)
    arrays = {"a.weight": w[:128, :128], "a.weight_scale": scale}  # of whole blocks it needs none
    back = from_compressed_tensors(arrays)["a.weight"]
    wide = np.kron(scale, np.ones((64, 64), np.float32))
    np.testing.assert_array_equal(back.dense(), w[:128, :128].astype(np.float32) * wide)
    arrays["a.weight_zero_point"] = np.ones((2, 2), np.int8)
    with pytest.raises(UnsupportedInput, match="no zero points for float8"):
        from_compressed_tensors(arrays)


def test_refusals(arrays):
    good = {name: x for name, x in arrays.items() if name.startswith("nv.")}
    good["nv.weight_global_scale"] = np.zeros(1, np.float32)
    with pytest.raises(CorruptStream, match="a finite nv.weight_global_scale"):
        from_compressed_tensors(good)
    good = {name: x for name, x in arrays.items() if name.startswith("p4z.")}
    for part, value, match in (
        ("weight_packed", good["p4z.weight_packed"][:, :-1], "1 to 8 bits|float scales|is none"),
        ("weight_scale", good["p4z.weight_scale"][:-1], "of blocks of a weight"),
        ("weight_zero_point", good["p4z.weight_zero_point"][:-1], "a zero for each"),
        ("weight_packed", good["p4z.weight_packed"].astype(np.float32), "got float32"),
    ):
        with pytest.raises((CorruptStream, UnsupportedInput), match=match):
            from_compressed_tensors(good | {f"p4z.{part}": value})
    nf4 = jc.formats.quantize(jnp.ones((4, 64)), jc.formats.NF4, -1)
    with pytest.raises(UnsupportedInput, match="FP8_E4M3, NVFP4 or MXFP4"):
        to_compressed_tensors({"a.weight": nf4})
