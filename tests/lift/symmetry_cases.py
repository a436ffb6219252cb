"""Functions with hidden axes, and the law of symmetries: what is returned changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.lift.symmetry import symmetries
from jaxcomp.tree import leaves
from jaxcomp.weights import fold
from tests.lift.cases import QUICK

HEADS, KV_HEADS, SIZE, DIM, HIDDEN, WORDS = 4, 2, 4, 8, 6, 11
TOKENS = jnp.asarray([[3, 1, 4, 1, 5]])


def weights(seed=0, **shapes):
    rng = np.random.default_rng(seed)
    return {
        name: jnp.asarray(
            rng.normal(size=shape) / np.sqrt(shape[-2] if len(shape) > 1 else 1), jnp.float32
        )
        for name, shape in shapes.items()
    }


def check(fn, params, *args, where=None):
    """All symmetries of fn, after a random factor of each has left its outputs as they were.

    Returns {(kind, size, paths of writers, paths of readers)}.
    """
    found = symmetries(fn, params, *args, where=where)
    rng = np.random.default_rng(1)
    turns = [np.linalg.qr(rng.normal(size=(s.size, s.size)))[0] for s in found]
    scales = [np.exp(rng.normal(size=s.size)) for s in found]

    def outputs(params):
        return jax.tree.leaves(fn(params, *args))

    def everything(params):
        base = fold.without_gains(params, found)
        trees = [base]
        for s, turn, scale in zip(found, turns, scales, strict=True):
            trees.append(fold.apply(base, s, scale if s.kind == "scale" else turn))
        return trees, jax.lax.map(outputs, jax.tree.map(lambda *x: jnp.stack(x), params, *trees))

    trees, results = jax.jit(everything, compiler_options=QUICK)(params)
    for s, tree in zip(found, trees[1:], strict=True):
        before, after = dict(leaves(trees[0])), dict(leaves(tree))
        for path in {m.path for m in (*s.writers, *s.readers)}:
            assert (before[path] != after[path]).any()
    for result in results:
        expected, *others = np.asarray(result)
        for other in others:
            limit = 1e-5 * np.abs(expected).max()
            np.testing.assert_allclose(other, expected, rtol=0, atol=limit)
    return {
        (s.kind, s.size, *(" ".join(m.path for m in side) for side in (s.writers, s.readers)))
        for s in found
    }


def rms_norm(x, gain):
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-5) * gain


def layer_norm(x, gain, bias):
    x = x - x.mean(-1, keepdims=True)
    return x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * gain + bias


def decoder_layer(x, w, norm=rms_norm):
    """Grouped-query attention with rotary positions, and a gated MLP: x [t, d] -> [t, d]."""
    t = x.shape[0]
    h = norm(x, w["norm1"])
    q, k, v = ((h @ w[n]).reshape(t, -1, SIZE) for n in ("q", "k", "v"))
    angle = jnp.arange(t)[:, None, None] * jnp.arange(1, SIZE // 2 + 1)

    def turned(x):
        even, odd = x[..., ::2], x[..., 1::2]
        pair = even * jnp.cos(angle) - odd * jnp.sin(angle), even * jnp.sin(angle) + odd
        return jnp.stack(pair, -1).reshape(x.shape)

    k, v = (jnp.repeat(a, HEADS // KV_HEADS, 1) for a in (turned(k), v))
    scores = jnp.einsum("ths,uhs->htu", turned(q), k)
    scores = jnp.where(jnp.tril(jnp.ones((t, t), bool)), scores, -jnp.inf)
    mixed = jnp.einsum("htu,uhs->ths", jax.nn.softmax(scores), v).reshape(t, -1)
    x = x + mixed @ w["o"]
    h = norm(x, w["norm2"])
    return x + (jax.nn.silu(h @ w["gate"]) * (h @ w["up"])) @ w["down"]


LAYER = {
    "norm1": (DIM,),
    "q": (DIM, HEADS * SIZE),
    "k": (DIM, KV_HEADS * SIZE),
    "v": (DIM, KV_HEADS * SIZE),
    "o": (HEADS * SIZE, DIM),
    "norm2": (DIM,),
    "gate": (DIM, HIDDEN),
    "up": (DIM, HIDDEN),
    "down": (HIDDEN, DIM),
}


def decoder(params, tokens):
    """A language model whose two layers are stacked and scanned, or a list."""
    x = params["table"][tokens[0]]
    layers = params["layers"]
    if isinstance(layers, dict):
        x, _ = jax.lax.scan(lambda x, w: (jax.checkpoint(decoder_layer)(x, w), None), x, layers)
    else:
        for w in layers:
            x = decoder_layer(x, w)
    return rms_norm(x, params["norm"]) @ params.get("head", params["table"].T)


def decoder_params():
    """With stacked layers and a head of its own."""
    layers = weights(**{name: (2, *shape) for name, shape in LAYER.items()})
    layers |= {name: 1 + 0.3 * layers[name] for name in ("norm1", "norm2")}
    outside = weights(table=(WORDS, DIM), norm=(DIM,), head=(DIM, WORDS))
    return {**outside, "layers": layers}
