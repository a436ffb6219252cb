"""The reader of llama2.c checkpoints and its model, against a NumPy one written position by
position."""

import chex
import jax
import numpy as np
import pytest

import jaxcomp as jc
from benchmarks.models import stories
from jaxcomp.base import CorruptStream

DIM, HIDDEN, LAYERS, HEADS, KV_HEADS, VOCABULARY, CONTEXT = 24, 10, 2, 6, 3, 11, 9
SIZE = DIM // HEADS
KV = SIZE * KV_HEADS
SHAPES = {  # the order of the file, written down again
    "embedding": (VOCABULARY, DIM),
    "attention_norm": (LAYERS, DIM),
    "wq": (LAYERS, DIM, DIM),
    "wk": (LAYERS, KV, DIM),
    "wv": (LAYERS, KV, DIM),
    "wo": (LAYERS, DIM, DIM),
    "feed_forward_norm": (LAYERS, DIM),
    "w1": (LAYERS, HIDDEN, DIM),
    "w2": (LAYERS, DIM, HIDDEN),
    "w3": (LAYERS, HIDDEN, DIM),
    "final_norm": (DIM,),
    "rotary": (2, CONTEXT, SIZE // 2),
    "classifier": (VOCABULARY, DIM),
}


def checkpoint(tied: bool) -> tuple[bytes, dict[str, np.ndarray]]:
    generator = np.random.default_rng(0)
    arrays = {key: generator.normal(0, 0.5, shape) for key, shape in SHAPES.items()}
    if tied:
        del arrays["classifier"]
    vocabulary = VOCABULARY if tied else -VOCABULARY
    header = np.array([DIM, HIDDEN, LAYERS, HEADS, KV_HEADS, vocabulary, CONTEXT], "<i4")
    data = b"".join(array.astype("<f4").tobytes() for array in arrays.values())
    return header.tobytes() + data, arrays


def run(w: dict[str, np.ndarray], tokens: list[int]) -> np.ndarray:
    """Logits after the last of tokens: one position at a time, one head at a time, in float64."""

    def norm(x, scale):
        return x / np.sqrt((x**2).mean() + 1e-5) * scale

    def rotate(x, position):
        pairs = x.reshape(-1, SIZE // 2, 2) @ [1, 1j]
        pairs = pairs * np.exp(1j * position * 10000.0 ** (-2 * np.arange(SIZE // 2) / SIZE))
        return np.stack([pairs.real, pairs.imag], -1).reshape(-1, SIZE)

    keys = [[] for _ in range(LAYERS)]
    values = [[] for _ in range(LAYERS)]
    for position, token in enumerate(tokens):
        x = w["embedding"][token]
        for i in range(LAYERS):
            h = norm(x, w["attention_norm"][i])
            q = rotate(w["wq"][i] @ h, position)
            keys[i].append(rotate(w["wk"][i] @ h, position))
            values[i].append((w["wv"][i] @ h).reshape(-1, SIZE))
            mixed = []
            for head in range(HEADS):
                shared = head // (HEADS // KV_HEADS)
                scores = np.array([q[head] @ k[shared] for k in keys[i]]) / SIZE**0.5
                p = np.exp(scores - scores.max())
                mixed.append((p / p.sum()) @ np.array([v[shared] for v in values[i]]))
            x = x + w["wo"][i] @ np.concatenate(mixed)
            h = norm(x, w["feed_forward_norm"][i])
            gate = w["w1"][i] @ h
            x = x + w["w2"][i] @ (gate / (1 + np.exp(-gate)) * (w["w3"][i] @ h))
    return w.get("classifier", w["embedding"]) @ norm(x, w["final_norm"])


@pytest.mark.parametrize("tied", [True, False])
def test_the_scanned_model_is_the_one_written_position_by_position(tmp_path, tied):
    data, arrays = checkpoint(tied)
    (tmp_path / "tiny.bin").write_bytes(data)
    params, config = stories.load(tmp_path, "tiny.bin")
    assert config == (DIM, HIDDEN, LAYERS, HEADS, KV_HEADS, VOCABULARY, CONTEXT, tied)
    assert params["layers"]["wk"].shape == SHAPES["wk"] and ("classifier" in params) is not tied
    chex.clear_trace_counter()
    model = jax.jit(
        chex.assert_max_traces(lambda p, t: stories.apply(p, t, heads=config.heads), n=1)
    )
    tokens = np.random.default_rng(1).integers(0, VOCABULARY, (2, CONTEXT)).astype(np.int32)
    logits = model(params, tokens)
    expected = [[run(arrays, row[: t + 1]) for t in range(CONTEXT)] for row in tokens]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    other = model(params, np.where(np.arange(CONTEXT) < 5, tokens, 0))
    np.testing.assert_allclose(other[:, :5], logits[:, :5], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("inside", [False, True])
def test_a_cache_of_everything_is_the_model(tmp_path, inside):
    (tmp_path / "tiny.bin").write_bytes(checkpoint(True)[0])
    params, config = stories.load(tmp_path, "tiny.bin")
    tokens = np.random.default_rng(2).integers(0, VOCABULARY, (2, CONTEXT)).astype(np.int32)
    cache = jc.kvcache.dense(CONTEXT)
    states = stories.empty(params, cache, 2, heads=HEADS)

    @jax.jit
    def step(states, tokens, at):
        return stories.decode(params, tokens, states, cache, at, heads=HEADS, inside=inside)

    parts = []
    for start in range(0, CONTEXT, 3):
        logits, states = step(states, tokens[:, start : start + 3], np.full(2, start))
        parts.append(logits)
    expected = stories.apply(params, tokens, heads=config.heads)
    np.testing.assert_allclose(np.concatenate(parts, 1), expected, atol=1e-4)


def test_nats_counts_what_the_mask_keeps():
    logits = np.log(np.array([[[0.5, 0.25, 0.25], [0.125, 0.75, 0.125], [1, 1, 1]]], np.float32))
    tokens = np.array([[0, 0, 2]], np.int32)
    total, count = stories.nats(logits, tokens, np.array([[True, True, False]]))
    np.testing.assert_allclose((total[0], count[0]), (np.log(2), 1), rtol=1e-6)
    total, count = stories.nats(logits, tokens, np.ones((1, 3), bool))
    np.testing.assert_allclose((total[0], count[0]), (np.log(16), 2), rtol=1e-6)


def test_greedy_takes_the_likeliest_token_each_time():
    def model(params, tokens):  # after t comes 3 t + 1
        return jax.nn.one_hot((3 * tokens + 1) % 8, 8) * params

    assert stories.greedy(model, 1.0, [1, 2], 4) == [1, 2, 7, 6, 3, 2]


def test_files_that_are_no_checkpoint_are_refused(tmp_path):
    data, _ = checkpoint(True)
    header = np.frombuffer(data[:28], "<i4")
    for wrong, message in (
        (data[:-4], "expected .* bytes"),
        (data + bytes(4), "expected .* bytes"),
        (data[:20], "header of 28 bytes"),
        (bytes(28) + data[28:], "header fields"),
        (np.where(np.arange(7) == 2, 1 << 30, header).astype("<i4").tobytes(), "header fields"),
        (np.where(np.arange(7) == 2, 1 << 20, header).astype("<i4").tobytes(), "expected .* bytes"),
        (np.where(np.arange(7) == 4, 5, header).astype("<i4").tobytes(), "shared evenly"),
    ):
        (tmp_path / "stories260K.bin").write_bytes(wrong)
        with pytest.raises(CorruptStream, match=message):
            stories.load(tmp_path)
