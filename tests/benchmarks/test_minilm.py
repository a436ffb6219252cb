"""The sentence encoder on a tiny random BERT, against NumPy without masks or stacked layers."""

import json
import math

import chex
import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from benchmarks.models import minilm
from jaxcomp.base import CorruptStream

VOCABULARY, CONTEXT, DIM, HIDDEN, LAYERS, HEADS = 13, 8, 12, 20, 2, 3
SIZES = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": CONTEXT,
    "hidden_size": DIM,
    "intermediate_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
}


def tiny_arrays() -> dict[str, np.ndarray]:
    shapes = {
        "embeddings.word_embeddings.weight": (VOCABULARY, DIM),
        "embeddings.position_embeddings.weight": (CONTEXT, DIM),
        "embeddings.token_type_embeddings.weight": (2, DIM),
        "embeddings.LayerNorm.weight": (DIM,),
        "pooler.dense.weight": (DIM, DIM),
    }
    for i in range(LAYERS):
        for key, shape in (
            ("attention.self.query", (DIM, DIM)),
            ("attention.self.key", (DIM, DIM)),
            ("attention.self.value", (DIM, DIM)),
            ("attention.output.dense", (DIM, DIM)),
            ("attention.output.LayerNorm", (DIM,)),
            ("intermediate.dense", (HIDDEN, DIM)),
            ("output.dense", (DIM, HIDDEN)),
            ("output.LayerNorm", (DIM,)),
        ):
            shapes[f"encoder.layer.{i}.{key}.weight"] = shape
    for key, shape in list(shapes.items()):
        if not key.endswith("embeddings.weight"):
            shapes[key.removesuffix("weight") + "bias"] = shape[:1]
    generator = np.random.default_rng(0)
    return {key: generator.normal(0, 0.5, shape).astype("f4") for key, shape in shapes.items()}


def run(w: dict[str, np.ndarray], tokens: np.ndarray) -> np.ndarray:
    """The unit vector of one sentence, one head and one token at a time, in float64."""
    erf = np.vectorize(math.erf)

    def norm(x, key):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
        return x * w[f"{key}.weight"] + w[f"{key}.bias"]

    def linear(x, key):
        return x @ w[f"{key}.weight"].T.astype(float) + w[f"{key}.bias"]

    x = w["embeddings.word_embeddings.weight"][tokens].astype(float)
    x = x + w["embeddings.position_embeddings.weight"][: len(tokens)]
    x = norm(x + w["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    size = DIM // HEADS
    for i in range(LAYERS):
        name = f"encoder.layer.{i}"
        q, k, v = (linear(x, f"{name}.attention.self.{key}") for key in ("query", "key", "value"))
        mixed = np.zeros_like(x)
        for head in range(HEADS):
            part = slice(head * size, (head + 1) * size)
            p = np.exp(q[:, part] @ k[:, part].T / size**0.5)
            mixed[:, part] = p / p.sum(-1, keepdims=True) @ v[:, part]
        x = norm(
            x + linear(mixed, f"{name}.attention.output.dense"),
            f"{name}.attention.output.LayerNorm",
        )
        h = linear(x, f"{name}.intermediate.dense")
        h = h * (1 + erf(h / 2**0.5)) / 2
        x = norm(x + linear(h, f"{name}.output.dense"), f"{name}.output.LayerNorm")
    return x.mean(0) / np.linalg.norm(x.mean(0))


def write(folder, arrays, sizes=SIZES):
    save_file(arrays, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(sizes))


def test_the_scanned_model_is_the_one_written_token_by_token(tmp_path):
    arrays = tiny_arrays()
    write(tmp_path, arrays)
    params, config = minilm.load(tmp_path)
    assert config == (VOCABULARY, CONTEXT, DIM, HIDDEN, LAYERS, HEADS)
    assert params["layers"]["intermediate"]["weight"].shape == (LAYERS, HIDDEN, DIM)
    chex.clear_trace_counter()
    model = jax.jit(
        chex.assert_max_traces(lambda p, t, m: minilm.apply(p, t, m, heads=config.heads), n=1)
    )
    for seed in range(2):  # what is masked is random too, and must not matter
        tokens = np.random.default_rng(seed).integers(0, VOCABULARY, (3, CONTEXT)).astype(np.int32)
        lengths = CONTEXT, 3, 0
        vectors = model(params, tokens, np.arange(CONTEXT) < np.array(lengths)[:, None])
        expected = [run(arrays, row[:n]) for row, n in zip(tokens[:2], lengths[:2], strict=True)]
        np.testing.assert_allclose(vectors[:2], expected, rtol=1e-4, atol=1e-5)
        assert not np.asarray(vectors[2]).any()  # an empty row is nothing, and finite


def test_files_that_are_no_such_model_are_refused(tmp_path):
    arrays = tiny_arrays()
    key = "encoder.layer.1.output.dense.weight"
    for wrong in (
        {k: v for k, v in arrays.items() if k != key},
        arrays | {key: np.zeros((HIDDEN, DIM), np.float32)},
        arrays | {key: arrays[key].astype(np.float16)},
    ):
        write(tmp_path, wrong)
        with pytest.raises(CorruptStream, match=rf"expected float32.* of {key}"):
            minilm.load(tmp_path)
    write(tmp_path, arrays)
    whole = (tmp_path / "model.safetensors").read_bytes()
    for cut in (0, 5, 200, len(whole) - 1):
        (tmp_path / "model.safetensors").write_bytes(whole[:cut])
        with pytest.raises(CorruptStream, match="whole model.safetensors"):
            minilm.load(tmp_path)
    for sizes in ({}, SIZES | {"hidden_size": "12"}, SIZES | {"num_attention_heads": 5}, []):
        write(tmp_path, arrays, sizes)
        with pytest.raises(CorruptStream, match="expected .*sizes"):
            minilm.load(tmp_path)
