"""stories260K: a Llama-architecture language model as a plain JAX function.

The checkpoint is version 0 of llama2.c (A. Karpathy, MIT): seven int32, then every weight in
float32, one kind after the other and each stacked over the layers. Weights stay as stored, [layers,
out, in]. The model: RMSNorm, rotary positions on neighbouring pairs (Su et al., RoFormer, 2021,
section 3.2.2), grouped-query attention (Ainslie et al. 2023), SwiGLU (Shazeer 2020).
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxcomp as jc
from jaxcomp.base import CorruptStream, KVCache

HEADS = 8  # of stories260K: no shape tells how many heads share a projection
EPSILON = 1e-5  # of every RMSNorm in llama2.c
ROTARY_BASE = 10000.0
OUTSIDE = ("embedding", "final_norm", "classifier")  # what no layer has
LARGEST = 1 << 20  # of any header field: products of the fields stay far below what int64 holds


class Config(NamedTuple):
    """The header of a checkpoint; `tied` where the classifier is the embedding."""

    dim: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    context: int
    tied: bool


def read_config(header: bytes) -> Config:
    """The seven int32 at the head of a checkpoint. A negative vocabulary means an untied one."""
    if len(header) != 28:
        raise CorruptStream(
            f"expected a header of 28 bytes, got {len(header)}; fetch the file again"
        )
    *sizes, vocabulary, context = (int(field) for field in np.frombuffer(header, "<i4"))
    config = Config(*sizes, abs(vocabulary), context, vocabulary > 0)
    if not all(0 < field <= LARGEST for field in config[:7]):
        raise CorruptStream(
            f"expected header fields of 1 to {LARGEST}, got {config}; is it a version 0 file?"
        )
    if config.dim % (2 * config.heads) or config.heads % config.kv_heads:
        raise CorruptStream(
            f"expected heads of even size shared evenly, got {config}; is it a version 0 file?"
        )
    return config


def _shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """What follows the header, in the order of the file."""
    dim, hidden, layers = config.dim, config.hidden, config.layers
    kv_dim = dim // config.heads * config.kv_heads
    shapes: dict[str, tuple[int, ...]] = {
        "embedding": (config.vocabulary, dim),
        "attention_norm": (layers, dim),
        "wq": (layers, dim, dim),
        "wk": (layers, kv_dim, dim),
        "wv": (layers, kv_dim, dim),
        "wo": (layers, dim, dim),
        "feed_forward_norm": (layers, dim),
        "w1": (layers, hidden, dim),
        "w2": (layers, dim, hidden),
        "w3": (layers, hidden, dim),
        "final_norm": (dim,),
        "rotary": (2, config.context, dim // config.heads // 2),  # cosines, sines: not read
    }
    return shapes if config.tied else shapes | {"classifier": (config.vocabulary, dim)}


def load(folder: str | Path, name: str = "stories260K.bin") -> tuple[dict[str, Any], Config]:
    """The weights, float32 as stored, and the header of `folder/name`.

    params: embedding [vocabulary, dim], final_norm [dim], classifier [vocabulary, dim] where it is
    not tied, and layers: attention_norm and feed_forward_norm [layers, dim]; wq and wo [layers,
    dim, dim]; wk and wv [layers, kv_dim, dim]; w1 and w3 [layers, hidden, dim]; w2 [layers, dim,
    hidden]. CorruptStream where the length of the file is not what its header says.
    """
    path = Path(folder) / name
    with path.open("rb") as file:
        config = read_config(file.read(28))
        shapes = _shapes(config)
        expected = 28 + 4 * sum(int(np.prod(shape)) for shape in shapes.values())
        if path.stat().st_size != expected:
            raise CorruptStream(
                f"expected {expected} bytes in {path.name}, got {path.stat().st_size}; "
                "fetch the file again"
            )
        values = np.frombuffer(file.read(), "<f4")
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])
    arrays = {
        key: jnp.asarray(part.reshape(shapes[key]))
        for key, part in zip(shapes, np.split(values, ends[:-1]), strict=True)
    }
    outside = {key: arrays[key] for key in arrays if key in OUTSIDE}
    layers = {key: arrays[key] for key in arrays if key not in (*OUTSIDE, "rotary")}
    return {**outside, "layers": layers}, config


def _normalise(x, scale):
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + EPSILON) * scale


def rotate(x, cosine, sine):
    """Turns each pair (x[2 i], x[2 i + 1]) of x [b, t, heads, head_size] by its position."""
    even, odd = x[..., 0::2], x[..., 1::2]
    turned = jnp.stack([even * cosine - odd * sine, even * sine + odd * cosine], axis=-1)
    return turned.reshape(x.shape)


def turns(positions, size):
    """Cosines and sines [..., 1, size / 2] of positions i32[...]."""
    speeds = ROTARY_BASE ** (-jnp.arange(0, size, 2) / size)
    angles = positions[..., None, None] * speeds
    return jnp.cos(angles), jnp.sin(angles)


def _run(params, tokens, heads, mix, states=None):
    """(logits, what mix made of the states): mix(q, k, v, state of a layer) -> (out, state)."""
    x = jnp.take(params["embedding"], tokens, axis=0)  # [b, t, d]
    batch, length, dim = x.shape
    size = dim // heads

    def block(x, layer):
        layer, state = layer
        h = _normalise(x, layer["attention_norm"])
        q, k, v = (
            jnp.einsum("btd,od->bto", h, layer[key]).reshape(batch, length, -1, size)
            for key in ("wq", "wk", "wv")
        )
        mixed, state = mix(q, k, v, state)
        x = x + jnp.einsum("btd,od->bto", mixed.reshape(batch, length, dim), layer["wo"])
        h = _normalise(x, layer["feed_forward_norm"])
        gate = jax.nn.silu(jnp.einsum("btd,hd->bth", h, layer["w1"]))
        up = jnp.einsum("btd,hd->bth", h, layer["w3"])
        return x + jnp.einsum("bth,dh->btd", gate * up, layer["w2"]), state

    x, states = jax.lax.scan(block, x, (params["layers"], states))
    x = _normalise(x, params["final_norm"])
    return jnp.einsum("btd,vd->btv", x, params.get("classifier", params["embedding"])), states


def _causal(length, kept):
    """Attention over all tokens as they are, and kept(q, k, v)."""
    causal = jnp.tril(jnp.ones((length, length), bool))

    def mix(q, k, v, state):
        size = q.shape[-1]
        at = turns(jnp.arange(length), size)
        kept_now = kept(q, k, v)
        q, k = rotate(q, *at), rotate(k, *at)
        q = q.reshape(*q.shape[:2], k.shape[2], -1, size)  # [b, t, kv heads, shared by, size]
        scores = jnp.einsum("btkgs,buks->bkgtu", q, k) / size**0.5
        weights = jax.nn.softmax(jnp.where(causal, scores, -jnp.inf), axis=-1)
        return jnp.einsum("bkgtu,buks->btkgs", weights, v), kept_now

    return mix


def apply(params: dict[str, Any], tokens: jax.Array, *, heads: int = HEADS) -> jax.Array:
    """Logits f32[batch, length, vocabulary] of what follows each of tokens i32[batch, length].

    Position t sees tokens 0 to t only. `heads` is config.heads.
    """
    return _run(params, tokens, heads, _causal(tokens.shape[1], lambda *_: None))[0]


def queries_keys_values(
    params: dict[str, Any], tokens: jax.Array, *, heads: int = HEADS
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What attention sees, each f32[layers, batch, length, its heads, size], before positions."""
    return _run(params, tokens, heads, _causal(tokens.shape[1], lambda *qkv: qkv))[1]


def empty(
    params: dict[str, Any],
    cache: KVCache,
    batch: int,
    *,
    heads: int = HEADS,
    dtype: Any = jnp.float32,
) -> Any:
    """States of `cache` without tokens, one for each layer, stacked."""
    layers, kv_dim, dim = params["layers"]["wk"].shape
    size = dim // heads
    one = cache.init(batch, kv_dim // size, size, dtype)
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (layers, *x.shape)), one)


def decode(
    params: dict[str, Any],
    tokens: jax.Array,
    states: Any,
    cache: KVCache,
    at: jax.Array,
    *,
    heads: int = HEADS,
    inside: bool = False,
    dtype: Any = jnp.float32,
) -> tuple[jax.Array, Any]:
    """(logits, states): tokens i32[batch, n] behind the `at` i32[batch] ones that states hold.

    inside: keys are kept as they are, and turned to their positions where they are read. dtype is
    that of the states. Tokens see what the cache made of those before them, and of themselves.
    """
    size = params["embedding"].shape[1] // heads
    here = turns(at[:, None] + jnp.arange(tokens.shape[1]), size)

    def rope(keys, positions):  # [b, h, t, size], [b, 1 or h, t]
        return rotate(keys, *(x[..., 0, :] for x in turns(positions, size)))

    def mix(q, k, v, state):
        q, k = rotate(q, *here), k if inside else rotate(k, *here)
        k, v = k.astype(dtype), v.astype(dtype)
        turn = rope if inside else None
        return jc.kvcache.attention(cache, state, q, k, v, rope=turn, exact_prompt=False)

    return _run(params, tokens, heads, mix, states)


def nats(logits: jax.Array, tokens: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(f32[batch] sums of -ln p over the tokens after the first that mask keeps, their counts)."""
    log_p = jax.nn.log_softmax(logits[:, :-1].astype(jnp.float32))
    each = -jnp.take_along_axis(log_p, tokens[:, 1:, None], axis=-1)[..., 0]
    return jnp.where(mask[:, 1:], each, 0).sum(axis=1), mask[:, 1:].sum(axis=1)


def greedy(model: Any, params: Any, start: list[int], count: int) -> list[int]:
    """`start` and the `count` likeliest tokens after it, one at a time, by model(params, tokens).

    Every step runs the model on the full length: what comes later does not reach a position.
    """
    tokens = jnp.zeros(len(start) + count, jnp.int32).at[: len(start)].set(jnp.asarray(start))

    @jax.jit
    def run(params, tokens):
        def step(at, tokens):
            return tokens.at[at].set(jnp.argmax(model(params, tokens[None])[0, at - 1]))

        return jax.lax.fori_loop(len(start), len(tokens), step, tokens)

    return np.asarray(run(params, tokens)).tolist()
