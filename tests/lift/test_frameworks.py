"""observe, compress, lift in three lines: plain functions, Flax linen and NNX, Equinox, Haiku."""

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxcomp as jc
from tests.lift.cases import dense

pytestmark = pytest.mark.usefixtures("quick_file")

WIDTH, LAYERS = 32, 3
TOKENS = np.array([[1, 5, 2, 0], [7, 7, 3, 4]])
KEY = jax.random.key(0)


def _plain():
    def fn(params, tokens):
        x = params["table"][tokens]
        x = jax.lax.scan(lambda x, w: (x + jnp.tanh(x @ w), None), x, params["layers"])[0]
        return x @ params["table"].T

    keys = jax.random.split(KEY)
    table = jax.random.normal(keys[0], (16, WIDTH))
    layers = jax.random.normal(keys[1], (LAYERS, WIDTH, WIDTH)) / 6
    return fn, {"table": table, "layers": layers}, {"table", "layers"}


class _LinenLayer(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        y = nn.MultiHeadDotProductAttention(2, deterministic=not train)(nn.LayerNorm()(x))
        return x + nn.Dense(WIDTH)(nn.relu(y)), None


class _Linen(nn.Module):
    @nn.compact
    def __call__(self, tokens, train=False):
        embed = nn.Embed(16, WIDTH)
        x = embed(tokens)
        layer = nn.remat(_LinenLayer, static_argnums=2, prevent_cse=False)
        axes = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
        x, _ = nn.scan(layer, length=LAYERS, in_axes=nn.broadcast, **axes)()(x, train)
        self.sow("intermediates", "last", x)
        x = nn.Conv(WIDTH, (3,))(x)
        return embed.attend(nn.DenseGeneral((2, WIDTH // 2))(x).reshape(x.shape))


def _linen():
    model = _Linen()
    params = jax.jit(model.init)(KEY, TOKENS)
    kernels = "query key value out Dense_0 DenseGeneral_0 Conv_0 Embed_0".split()
    return model.apply, params, set(kernels)


class _NNX(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(16, WIDTH, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, WIDTH, decode=False, rngs=rngs)
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.last = nnx.Linear(WIDTH, WIDTH, rngs=rngs)

    def __call__(self, tokens):
        x = self.embed(tokens)
        return self.embed.attend(self.last(x + self.attention(self.norm(x))))


def _nnx():
    graph, state = nnx.split(_NNX(nnx.Rngs(0)))

    def fn(state, tokens):
        return nnx.merge(graph, state)(tokens)

    return fn, state, set("embed query key value out last".split())


class _Equinox(eqx.Module):
    embed: eqx.nn.Embedding
    attention: eqx.nn.MultiheadAttention
    layers: list
    activation: object = jax.nn.gelu

    def __call__(self, tokens):
        x = jax.vmap(self.embed)(tokens)
        x = x + self.attention(x, x, x)
        for layer in self.layers:
            x = jax.vmap(lambda x, layer=layer: self.activation(layer(x)))(x)
        return x @ self.embed.weight.T


def _equinox():
    keys = jax.random.split(KEY, 4)
    embed = eqx.nn.Embedding(16, WIDTH, key=keys[0])
    attention = eqx.nn.MultiheadAttention(2, WIDTH, key=keys[1])
    layers = [eqx.nn.Linear(WIDTH, WIDTH, key=key) for key in keys[2:]]
    model = _Equinox(embed, attention, layers)
    names = "embed query_proj key_proj value_proj output_proj layers/0 layers/1"
    return lambda model, tokens: jax.vmap(model)(tokens), model, set(names.split())


def _haiku():
    def forward(tokens):
        x = hk.Embed(16, WIDTH)(tokens)
        attention = hk.MultiHeadAttention(2, WIDTH // 2, w_init=hk.initializers.VarianceScaling(1))
        x = x + attention(x, x, x)
        stack = hk.experimental.layer_stack(LAYERS)(lambda x: jnp.tanh(hk.Linear(WIDTH)(x)))
        return hk.Conv1D(WIDTH, 3)(stack(x))

    net = hk.without_apply_rng(hk.transform(forward))
    names = "query key value multi_head_attention/linear __layer_stack conv1_d"
    return net.apply, jax.jit(net.init)(KEY, TOKENS), set(names.split())


MODELS = {f.__name__[1:]: f for f in (_plain, _linen, _nnx, _equinox, _haiku)}
FORMATS = {"int8": (jc.formats.INT8, 0.03), "int4": (jc.formats.INT4._replace(group=16), 0.4)}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_runs_compressed_in_three_lines(name):
    fn, params, names = MODELS[name]()
    exact = jc.lift(fn)(params, TOKENS)  # jit, for trees that hold functions too
    stats = jc.observe(fn, params, [TOKENS], statistic=None)
    for format, most in FORMATS.values():
        small = jc.weights.compress(params, jc.weights.rtn(format), stats=stats)
        lifted = jc.lift(fn, strict=True)

        report = jc.lift(fn).report(small, TOKENS)
        assert not report.materialised, f"\n{report}"
        assert "unused" not in {row.ran for row in report.rows}, f"\n{report}"
        for each in names:
            assert any(each in row.path for row in report.rows), f"{each}:\n{report}"

        got, expected = lifted(small, TOKENS), jc.lift(fn)(dense(small), TOKENS)
        scale = float(jnp.abs(expected).max())
        np.testing.assert_allclose(got, expected, rtol=0, atol=2e-4 * scale)
        error = float(jnp.linalg.norm(got - exact) / jnp.linalg.norm(exact))
        assert 0 < error < most


def test_linen_keeps_its_keyword_arguments_collections_and_methods():
    model = _Linen()
    params = jax.jit(model.init)(KEY, TOKENS)
    stats = jc.observe(model.apply, params, [TOKENS], statistic=None)
    small = jc.weights.compress(params, jc.weights.rtn(jc.formats.INT8), stats=stats)
    lifted = jc.lift(model.apply, strict=True)
    options = {"train": False, "mutable": ["intermediates"], "rngs": {"dropout": KEY}}
    got, state = lifted(small, TOKENS, **options, method="__call__")
    expected, plain = jax.jit(lambda p: model.apply(p, TOKENS, **options))(dense(small))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-3)
    assert jax.tree.structure(state) == jax.tree.structure(plain)
