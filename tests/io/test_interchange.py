"""Models between layouts: the same codes wherever both sides have them, and refusals elsewhere.

The files of other tools are those of the golden folder; test_gguf.py and its neighbours say who
wrote them.
"""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.base import CorruptStream, JaxcompError, UnsupportedInput
from jaxcomp.io.awq import from_awq
from jaxcomp.io.compressed_tensors import from_compressed_tensors
from jaxcomp.io.gptq import from_gptq
from jaxcomp.io.interchange import Model, fit, read_model, write_model
from jaxcomp.io.safetensors_plain import read_metadata, save_plain
from jaxcomp.io.weights_file import check_leaves

GOLDEN = Path(__file__).parent.parent / "golden"
GGUF = GOLDEN / "gguf_v3.gguf"
FILES = {
    "gptq": GOLDEN / "gptq_v2.safetensors",
    "awq": GOLDEN / "awq_gemm.safetensors",
    "compressed-tensors": GOLDEN / "compressed_tensors_v0.safetensors",
}


def convert(source, target, layout, **options):
    model = read_model(source)
    weights, kept = fit(model, layout, **options)
    write_model(target, weights, layout, model)
    return kept


def same(a, b):
    assert set(a.weights) == set(b.weights)
    for name, x in a.weights.items():
        x, y = [np.asarray(w.dense() if hasattr(w, "dense") else w) for w in (x, b.weights[name])]
        np.testing.assert_array_equal(x.astype(y.dtype), y, err_msg=name)


def test_gguf_to_jxc_and_back_with_every_block_as_it_was(tmp_path):
    kept = convert(GGUF, tmp_path / "x.jxc", "jxc")
    assert kept == (17, 0, 0, 4)
    convert(tmp_path / "x.jxc", tmp_path / "x.gguf", "gguf")
    # Metadata too, each of its type, and tensors in their order: it is the same file.
    assert (tmp_path / "x.gguf").read_bytes() == GGUF.read_bytes()
    assert set(jc.io.load_weights(tmp_path / "x.jxc")) == set(read_model(GGUF).weights)
    arrays = {"a": np.arange(3, dtype=np.float32)}  # a model of no compressed weights
    jc.io.save_gguf(tmp_path / "y.gguf", arrays, {"general.name": "small"})
    convert(tmp_path / "y.gguf", tmp_path / "y.jxc", "jxc")
    assert read_model(tmp_path / "y.jxc").metadata == {"general.name": "small"}


def test_layouts_are_found_by_names_and_shapes():
    assert {name: read_model(path).layout for name, path in FILES.items()} == {x: x for x in FILES}


def test_awq_to_gptq_to_compressed_tensors_and_back(tmp_path):
    """One matrix through three layouts: every array of the first file comes back."""
    for source, target, layout in (
        (FILES["awq"], "a.safetensors", "gptq"),
        ("a.safetensors", "b.safetensors", "compressed-tensors"),
        ("b.safetensors", "c.jxc", "jxc"),
        ("c.jxc", "d.safetensors", "awq"),
    ):
        assert convert(tmp_path / source, tmp_path / target, layout) == (1, 0, 0, 0)
    first, last = (jc.io.load_safetensors(p) for p in (FILES["awq"], tmp_path / "d.safetensors"))
    assert set(first) == set(last)
    for name, x in first.items():
        np.testing.assert_array_equal(x, last[name])
    found = json.loads(read_metadata(tmp_path / "d.safetensors")["quantization_config"])
    assert found["quant_method"] == "awq" and found["group_size"] == 32


def test_kinds_of_gguf_with_scales_of_scales_are_one_scale_elsewhere(tmp_path):
    model = read_model(GGUF)
    model = model._replace(
        weights={name: model.weights[f"blk.{name}.weight"] for name in ("q4_0", "q6_k", "q3_k")}
    )
    model = model._replace(weights={f"{name}.weight": x for name, x in model.weights.items()})
    weights, kept = fit(model, "compressed-tensors")
    assert kept.exact == 3
    write_model(tmp_path / "x.safetensors", weights, "compressed-tensors", model)
    same(model, read_model(tmp_path / "x.safetensors"))


def test_what_is_not_held_is_refused_or_rounded_or_dense(tmp_path):
    model = read_model(GGUF)
    with pytest.raises(UnsupportedInput, match=r"blk.q4_1.weight.*Q4_1.*--round.*--dense"):
        fit(model, "compressed-tensors")
    small = model._replace(weights={"a.weight": model.weights["blk.q4_k.weight"]})
    weights, kept = fit(small, "gptq", rounding="uint4-g32")
    assert kept == (0, 1, 0, 0)
    error = np.asarray(weights["a.weight"].dense()) - small.weights["a.weight"].dense()
    assert 0 < np.abs(error).max() < 0.3
    weights, kept = fit(model, "plain", dense="bfloat16")
    assert kept.dense == 17 and weights["experts.weight"].dtype == "bfloat16"
    write_model(tmp_path / "x.safetensors", weights, "plain", model)
    assert read_model(tmp_path / "x.safetensors").layout == "plain"
    awq = read_model(FILES["awq"])
    with pytest.raises(UnsupportedInput, match="a kind of block holds"):
        fit(awq, "gguf")
    weights, kept = fit(awq, "gguf", rounding="q8_0")
    assert kept.rounded == 1 and weights["m.weight"].kind == "Q8_0"
    for rounding, layout in (("int9", "gptq"), ("int4", "gguf")):
        with pytest.raises(UnsupportedInput, match="expected (the name|a kind)"):
            fit(awq, layout, rounding=rounding)


def test_folders_with_shards_and_config(tmp_path):
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    arrays = jc.io.load_safetensors(FILES["gptq"])
    half = {name: x for name, x in arrays.items() if name.startswith("a4.")}
    names = (["a4.qweight"], ["a4.qzeros", "a4.scales", "a4.g_idx"])
    parts = [{name: half[name] for name in some} for some in names]
    for i, part in enumerate(parts):
        save_plain(source / f"{i}.safetensors", part, {})
    index = {name: f"{i}.safetensors" for i, part in enumerate(parts) for name in part}
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    config = {"model_type": "x", "quantization_config": {"checkpoint_format": "gptq_v2"}}
    (source / "config.json").write_text(json.dumps(config))
    convert(source, target, "compressed-tensors")
    written = json.loads((target / "config.json").read_text())
    assert written["model_type"] == "x"
    assert written["quantization_config"]["quant_method"] == "compressed-tensors"
    same(read_model(source), read_model(target))
    convert(source, tmp_path / "again", "gptq")
    again = read_model(tmp_path / "again").config["quantization_config"]
    assert again["checkpoint_format"] == "gptq_v2"

    # Weights that are there would be read in place of the new ones; a config that is there stays.
    with pytest.raises(UnsupportedInput, match=r"without other weights, got .* 0.safetensors"):
        convert(FILES["awq"], source, "awq")
    assert read_model(source).layout == "gptq"
    convert(FILES["awq"], target, "awq")
    written = json.loads((target / "config.json").read_text())
    assert written["model_type"] == "x" and written["quantization_config"]["quant_method"] == "awq"

    index["a4.qweight"] = "../../secret.safetensors"
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    with pytest.raises(CorruptStream, match="files in the folder"):
        read_model(source)


@pytest.mark.parametrize("layout", FILES)
def test_arrays_of_other_shapes_and_types_are_named_or_harmless(layout):
    """Arrays that are cut, cast, reshaped, changed or left out: a named error, or whole leaves."""
    read = {"gptq": from_gptq, "awq": from_awq, "compressed-tensors": from_compressed_tensors}
    good = {name: np.asarray(x) for name, x in jc.io.load_safetensors(FILES[layout]).items()}
    draw, refused = random.Random(0), 0
    for _ in range(60):
        arrays, name = dict(good), draw.choice(list(good))
        x = arrays.pop(name)
        change = draw.randrange(6)
        if change == 0:
            x = x[: draw.randrange(len(x))]
        elif change == 1:
            kind = draw.choice((np.int32, np.uint8, np.float16, np.int64))
            with np.errstate(all="ignore"):
                x = x.astype(np.float32).astype(kind)
        elif change == 2:
            x = x.reshape(-1)
        elif change == 3:
            x = x.copy()
            x.reshape(-1).view(np.uint8)[draw.randrange(x.nbytes)] = draw.randrange(256)
        elif change == 4:
            x = x[None]
        if change < 5:
            arrays[name] = x
        try:
            check_leaves(read[layout](arrays))
        except JaxcompError as error:
            refused += 1
            assert "expected" in str(error)
    assert refused > 20


def test_arrays_alone_are_no_compressed_layout_and_no_folder_is_left(tmp_path):
    model = Model({"a.weight": np.ones((4, 4), np.float32)}, "plain", {}, {})
    for layout in ("gptq", "awq"):
        with pytest.raises(UnsupportedInput, match="got arrays alone; quantise them"):
            write_model(tmp_path / "x", fit(model, layout)[0], layout, model)
    assert not (tmp_path / "x").exists()
    with pytest.raises(UnsupportedInput, match="compressed weights, got plain"):
        fit(read_model(FILES["awq"]), "plain", rounding="int4-g32")


def test_refusals(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_model(tmp_path / "none")
    (tmp_path / "x.bin").touch()
    with pytest.raises(UnsupportedInput, match="got '.bin'"):
        read_model(tmp_path / "x.bin")
    with pytest.raises(UnsupportedInput, match="one .safetensors file"):
        read_model(tmp_path)
    shutil.copy(FILES["awq"], tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"quantization_config": [1]}')
    with pytest.raises(CorruptStream, match="an object as quantization_config"):
        read_model(tmp_path)
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(CorruptStream, match="JSON"):
        read_model(tmp_path)
