"""Codecs of learned latents: the law, bit for bit; no floats where a decoder decides."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.base import CorruptStream, JaxcompError, Payload
from jaxcomp.codecs import latent_coding as coding
from jaxcomp.codecs.latent_codec import Design
from jaxcomp.codecs.latent_frozen import freeze
from tests.checks import check_codec

DESIGN = Design("channel_conditional", (24, 40), side=8, width=16, passes=(3,))
CODEC = coding.latent_codec(DESIGN)


@pytest.fixture(scope="module")
def frozen():
    return freeze(DESIGN, CODEC.init(jax.random.key(1)))


def photo(height, width):
    y, x = np.mgrid[0:height, 0:width]
    waves = [100 + 60 * np.sin(x / 9 + c) + 50 * np.cos(y / 7 - c) for c in range(3)]
    noise = np.random.default_rng(0).normal(0, 6, (height, width, 3))
    return (np.stack(waves, -1) + noise).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("shape", [(64, 64), (50, 37, 3), (1, 1, 3)])
def test_what_is_decoded_is_what_apply_promised(frozen, shape):
    image = photo(*shape[:2])
    image = image[..., 0] if len(shape) == 2 else image
    codec = CODEC._replace(init=lambda key=None: frozen)
    decoded, payload = check_codec(codec, image, quality=60)
    _, bits = CODEC.apply(frozen, image, quality=60)
    size = 8 * len(payload.sections["data"])
    assert 0.98 * bits <= size <= 1.01 * bits + coding.OVERHEAD_BITS
    if shape == (64, 64):  # an untrained codec is a DCT: it works
        assert np.mean((decoded.astype(float) - image) ** 2) < 60


def test_a_rate_is_kept(frozen):
    image = photo(128, 64)
    payload = CODEC.encode(frozen, image, bpp=2.0)
    assert 8 * len(payload.sections["data"]) <= 2.0 * 128 * 64
    with pytest.raises(JaxcompError, match="quality"):
        CODEC.encode(frozen, image, quality=0)


def test_no_float_decides_what_a_decoder_reads(frozen):
    data = CODEC.encode(frozen, photo(64, 64), quality=50).sections["data"]
    latents, step = coding.read(DESIGN, frozen, data, (64, 64))

    def primitives(jaxpr):
        for equation in jaxpr.eqns:
            yield equation
            for value in equation.params.values():
                for inner in jax.tree.leaves(
                    value, is_leaf=lambda x: isinstance(x, jax.extend.core.ClosedJaxpr)
                ):
                    if isinstance(inner, jax.extend.core.ClosedJaxpr):
                        yield from primitives(inner.jaxpr)
                    elif isinstance(inner, jax.extend.core.Jaxpr):
                        yield from primitives(inner)

    stream = coding.coding.empty(coding.LANES, 4096, escape_capacity=4096)
    z = jnp.zeros((1, 1, 1, DESIGN.side), jnp.int32)
    active = jnp.ones(sum(DESIGN.slices), bool)
    tables = frozen.wide, frozen.narrow
    programs = [
        jax.make_jaxpr(lambda *a: coding._read(DESIGN, *a))(
            frozen.prior_integers, tables, stream, z, jnp.int32(step), active
        ),
        jax.make_jaxpr(lambda *a: coding._paint(DESIGN, *a))(
            frozen.synthesis_integers, frozen.inverse_gains, latents, jnp.int32(step)
        ),
    ]
    for program in programs:
        found = list(primitives(program.jaxpr))
        assert len(found) > 50
        for equation in found:
            if equation.primitive.name == "custom_jvp_call" or "rans" in equation.primitive.name:
                continue
            for variable in equation.outvars:
                assert not jnp.issubdtype(variable.aval.dtype, jnp.floating), equation


def test_latents_are_the_same_with_and_without_jit(frozen):
    data = CODEC.encode(frozen, photo(64, 64), quality=50).sections["data"]
    latents, step = coding.read(DESIGN, frozen, data, (64, 64))
    samples = coding.paint(DESIGN, frozen, latents, step)
    four = jnp.concatenate([latents] * 4)
    many = coding.paint(DESIGN, frozen, four, step)
    np.testing.assert_array_equal(many[3], samples[0])
    with jax.disable_jit():
        again = coding.paint(DESIGN, frozen, latents, step)
    np.testing.assert_array_equal(again, samples)


def test_damage_is_named(frozen):
    payload = CODEC.encode(frozen, photo(64, 64), quality=50)
    data, header = payload.sections["data"], payload.header
    rng = np.random.default_rng(0)
    for _ in range(30):
        damaged = bytearray(data)
        damaged[rng.integers(len(data))] ^= 1 << rng.integers(8)
        for bad in (bytes(damaged), data[: rng.integers(len(data))]):
            try:
                image = CODEC.decode(frozen, Payload(header, {"data": bad}))
                assert image.shape == (64, 64, 3)
            except CorruptStream:
                pass
    with pytest.raises(CorruptStream, match="8 bytes"):
        CODEC.decode(frozen, Payload(header, {}))
