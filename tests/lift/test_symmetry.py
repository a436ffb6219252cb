"""What symmetries finds in models changes nothing; what anything else sees is not found.

Each found one is applied with a random factor in `check`, and outputs compared to 1e-5.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.base import UnsupportedInput
from jaxcomp.lift.symmetry import symmetries
from tests.lift.symmetry_cases import (
    DIM,
    HIDDEN,
    KV_HEADS,
    SIZE,
    TOKENS,
    check,
    decoder,
    decoder_params,
    layer_norm,
    weights,
)


def test_a_decoder_of_scanned_layers_has_all_that_it_should():
    found = check(decoder, decoder_params(), TOKENS)
    readers = "layers/q layers/k layers/v"
    assert found == {
        ("scale", 2 * DIM, "layers/norm1", readers),
        ("scale", 2 * DIM, "layers/norm2", "layers/gate layers/up"),
        ("scale", 2 * KV_HEADS * SIZE, "layers/v", "layers/o"),
        ("scale", 2 * HIDDEN, "layers/up", "layers/down"),
        ("scale", DIM, "norm", "head"),
        ("orthogonal", SIZE, "layers/v", "layers/o"),  # one for each layer and key-value head
        (
            "orthogonal",
            DIM,
            "table layers/o layers/down",
            f"{readers} layers/gate layers/up head",
        ),
    }


def test_channels_say_where_each_head_and_layer_is():
    found = symmetries(decoder, decoder_params(), TOKENS)
    scale = next(s for s in found if s.writers[0].path == "layers/v" and s.kind == "scale")
    (v,), (o,) = scale.writers, scale.readers
    assert (v.axes, o.axes) == ((-3, -1), (-3, -2))
    np.testing.assert_array_equal(v.channels, np.arange(16).reshape(2, 8))
    shared = o.channels[1].reshape(4, SIZE)  # [heads, size]: two heads for each of v
    np.testing.assert_array_equal(shared, np.arange(8, 16).reshape(2, SIZE).repeat(2, 0))
    heads = [s for s in found if s.kind == "orthogonal" and s.size == SIZE]
    assert len(heads) == 2 * KV_HEADS
    apart = np.stack([s.writers[0].channels >= 0 for s in heads])
    assert (apart.sum(0) == 1).all()
    stream = next(s for s in found if s.kind == "orthogonal" and s.size == DIM)
    assert {(m.path, m.axes) for m in stream.writers} == {
        ("table", (-1,)),
        ("layers/o", (-1,)),
        ("layers/down", (-1,)),
    }
    assert {m.gain for m in stream.readers} == {"layers/norm1", "layers/norm2", "norm"}


def test_a_list_of_layers_and_a_tied_table():
    params = decoder_params()
    params["layers"] = [jax.tree.map(lambda x: x[0], params["layers"])]
    found = check(decoder, params, TOKENS)
    assert ("scale", DIM, "layers/0/norm1", "layers/0/q layers/0/k layers/0/v") in found
    assert len(found) == 7
    del params["head"]  # the table is looked up, and is the head: neither may change
    tied = symmetries(decoder, params, TOKENS)
    paths = {m.path for s in tied for m in (*s.writers, *s.readers)}
    assert "layers/0/down" in paths and not paths & {"table", "norm"}
    assert [s.size for s in tied if s.kind == "orthogonal"] == [SIZE] * KV_HEADS


def test_an_encoder_with_layer_norms_and_biases():
    """LayerNorm keeps no rotation; its gain and bias are written together, where alone read."""
    d, n = DIM, 3
    params = weights(
        table=(n, d), place=(5, d), g=(d,), b=(d,), q=(d, d), k=(d, d), v=(d, 2, 4), vb=(2, 4),
        o=(2, 4, d), up=(d, 6), upb=(6,), down=(6, d), downb=(d,), g2=(d,), b2=(d,), head=(d, 3),
    )  # fmt: skip

    def encoder(p, tokens):
        x = p["table"][tokens[0] % n] + p["place"]
        h = layer_norm(x, p["g"], p["b"])
        v = jnp.einsum("td,dhs->ths", h, p["v"]) + p["vb"]
        scores = jnp.einsum("td,ud->tu", h @ p["q"], h @ p["k"])
        mixed = jnp.einsum("tu,uhs->ths", jax.nn.softmax(scores), v)
        x = x + jnp.einsum("ths,hsd->td", mixed, p["o"])
        x = x + jax.nn.relu(x @ p["up"] + p["upb"]) @ p["down"] + p["downb"]
        return layer_norm(x, p["g2"], p["b2"]).mean(0) @ p["head"]

    assert check(encoder, params, TOKENS) == {
        ("scale", d, "g b", "v q k"),
        ("scale", 8, "v vb", "o"),
        ("scale", 6, "up upb", "down"),
        ("scale", d, "g2 b2", "head"),
        ("orthogonal", 8, "v vb", "o"),  # one probability for both heads: they turn together
    }


W = weights(a=(4, 4), b=(4, 4), c=(4, 4))
X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), jnp.float32)


def test_where_fixes_weights_and_nothing_selected_is_named():
    def fn(p, x):
        return x @ p["a"] @ p["b"]

    assert symmetries(fn, W, X, where=lambda path, _: path != "a") == []
    assert len(symmetries(fn, W, jax.ShapeDtypeStruct((7, 4), jnp.float32))) == 2
    with pytest.raises(UnsupportedInput, match="where="):
        symmetries(fn, W, X, where=lambda path, leaf: False)
