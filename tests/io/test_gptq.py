"""GPTQ: arrays that GPTQModel packed are read to its weights, and written again bit for bit.

golden/gptq_v2.safetensors holds what pack_original of GPTQModel 7.7.0 makes of weights of 2, 3, 4
and 8 bits; WEIGHTS has the CRC-32 of the float16 weights [out, in] of the codes that went in.
"""

import zlib
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.base import CorruptStream, UnsupportedInput
from jaxcomp.formats.format import Format
from jaxcomp.formats.selected import Selected
from jaxcomp.io.gptq import from_gptq, to_gptq

GOLDEN = Path(__file__).parent.parent / "golden" / "gptq_v2.safetensors"
WEIGHTS = {"a2": 2364626093, "a3": 1214470249, "a4": 4123833081, "a4act": 1458440488}
WEIGHTS["a8"] = 721316749
V2 = {"checkpoint_format": "gptq_v2"}


@pytest.fixture(scope="module")
def arrays():
    return {name: np.asarray(x) for name, x in jc.io.load_safetensors(GOLDEN).items()}


def of(arrays, module):
    return {name: x for name, x in arrays.items() if name.startswith(f"{module}.")}


def test_weights_are_those_of_the_tool_and_arrays_come_back(arrays):
    tree = from_gptq(arrays, V2)
    for module, crc in WEIGHTS.items():
        leaf = tree[f"{module}.weight"]
        assert zlib.crc32(np.asarray(leaf.dense()).tobytes()) == crc, module
        back, config = to_gptq({f"{module}.weight": leaf}, version=2)
        assert set(back) == set(of(arrays, module))
        for name, x in back.items():
            np.testing.assert_array_equal(x, arrays[name], err_msg=name)
            assert x.dtype == arrays[name].dtype
        assert (
            config["desc_act"] == (module == "a4act") and config["checkpoint_format"] == "gptq_v2"
        )
    assert isinstance(tree["a4act.weight"], Selected)


def test_version_1_keeps_zeros_less_one(arrays):
    old = of(arrays, "a4")
    ones = np.int32(0x11111111)  # what GPTQModel subtracts from words of 4 bits
    old["a4.qzeros"] = old["a4.qzeros"] - ones
    leaf = from_gptq(old)["a4.weight"]
    assert zlib.crc32(np.asarray(leaf.dense()).tobytes()) == WEIGHTS["a4"]
    np.testing.assert_array_equal(to_gptq({"a4.weight": leaf})[0]["a4.qzeros"], old["a4.qzeros"])


def test_a_weight_of_ours_there_and_back():
    w = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)
    format = jc.formats.INT4_G32._replace(scale="float16")
    leaf = jc.formats.quantize(jnp.asarray(w), format, -2)  # a kernel [in, out]
    arrays, config = to_gptq({"x.weight": leaf, "x.bias": np.ones(3)})
    assert config["sym"] and config["group_size"] == 32 and config["bits"] == 4
    back = from_gptq(arrays, config)
    np.testing.assert_array_equal(back["x.weight"].dense(), np.asarray(leaf.dense(), np.float16).T)
    assert back["x.weight"].zeros is None and list(back) == ["x.weight", "x.bias"]


@pytest.mark.parametrize(("bits", "outputs"), [(4, 8), (8, 4)])
def test_few_outputs_fill_one_word_at_any_bits(bits, outputs):
    w = jnp.asarray(np.random.default_rng(0).standard_normal((outputs, 64)), jnp.float32)
    format = Format(bits, 16, zero="uint8", scale="float16")
    leaf = jc.formats.quantize(w, format, -1)
    arrays, config = to_gptq({"x.weight": leaf})
    bare = {name: x for name, x in arrays.items() if name != "x.g_idx"}
    for given in ((arrays, {}), (arrays, config), (bare, config)):
        back = from_gptq(*given)["x.weight"]
        np.testing.assert_array_equal(back.dense(), np.asarray(leaf.dense(), np.float16))
    with pytest.raises(CorruptStream, match="its bits in config"):
        from_gptq(bare)


def test_refusals(arrays):
    bad = of(arrays, "a4")
    bad["a4.scales"] = bad["a4.scales"][:, :-1]
    with pytest.raises(CorruptStream, match="expected GPTQ arrays"):
        from_gptq(bad)
    bad = of(arrays, "a4")
    bad["a4.g_idx"] = bad["a4.g_idx"] * 100
    with pytest.raises(CorruptStream, match="64 inputs in 4 groups"):
        from_gptq(bad)
    with pytest.raises(CorruptStream, match="expected scales beside"):
        from_gptq({name: x for name, x in bad.items() if "scales" not in name})
    leaves = from_gptq(arrays, V2)
    with pytest.raises(UnsupportedInput, match="one format, got"):
        to_gptq(leaves)
    odd = jc.formats.quantize(jnp.ones((4, 40)) / 3, jc.formats.INT4, -1)
    with pytest.raises(UnsupportedInput, match="words of 32"):
        to_gptq({"x.weight": odd})
    wide = jc.formats.quantize(
        jnp.full((32, 32), 1 / 3), jc.formats.INT8._replace(scale="float32"), -1
    )
    with pytest.raises(UnsupportedInput, match="scales that float16 holds"):
        to_gptq({"x.weight": wide})
    with pytest.raises(UnsupportedInput, match="named X.weight"):
        to_gptq({"x": wide})
