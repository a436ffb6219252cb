"""Codecs of learned latents: the law, bit for bit; no floats where a decoder decides."""

import struct
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.base import CorruptStream, JaxcompError, Payload
from jaxcomp.codecs import latent_coding as coding
from jaxcomp.codecs import latent_stream, latent_tiles, latent_walk
from jaxcomp.codecs.latent_codec import Design
from jaxcomp.codecs.latent_frozen import freeze
from jaxcomp.codecs.latent_plane import layout
from jaxcomp.coding import empty
from tests.checks import check_codec
from tests.nets.cases import AS_USUAL

DESIGN = Design("channel_conditional", (24, 40), side=8, width=16, passes=(3,))
DESIGN = DESIGN._replace(split=True, direct=True)
CODEC = coding.latent_codec(DESIGN)


@pytest.fixture(scope="module")
def frozen():
    return freeze(DESIGN, CODEC.init(jax.random.key(1)))


@pytest.fixture(scope="module")
def lively(frozen):
    """A network that matters: that of init begins at 0, and would need no halo."""
    synthesis = dict(frozen.synthesis_integers["integers"])
    last = synthesis["IntegerConv_4"]
    synthesis["IntegerConv_4"] = {**last, "shift": last["shift"] - 6}  # 64 times as much
    return frozen._replace(synthesis_integers={"integers": synthesis})


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(latent_tiles, "TILE", 64)


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
    assert 0.98 * bits <= size <= 1.01 * bits + latent_stream.OVERHEAD_BITS
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
    latents, modes, step = coding.read(DESIGN, frozen, data, (64, 64))

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

    stream = empty(latent_stream.LANES, 4096, escape_capacity=4096)
    where = layout(4, 4)
    rows = latent_walk.side_rows(where, DESIGN.side)
    active = jnp.ones(sum(DESIGN.slices), bool)
    tables = latent_stream._Tables(frozen.wide, frozen.narrow, frozen.modes, frozen.side)
    given = stream, None, rows, jnp.int32(step), active, where.cells
    shown = where.cut(latents), jnp.int32(step), where.cut(modes), where.cells
    programs = [
        jax.make_jaxpr(lambda *a: latent_stream._read(DESIGN, *a))(
            frozen.prior_integers, tables, *given
        ),
        jax.make_jaxpr(lambda *a: coding._paint(DESIGN, *a))(
            frozen.synthesis_integers, frozen.inverse_gains, *shown
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
    latents, modes, step = coding.read(DESIGN, frozen, data, (64, 64))
    samples = coding.paint(DESIGN, frozen, latents, step, modes)
    where, integers = layout(4, 4), (frozen.synthesis_integers, frozen.inverse_gains)

    def paint(integers, latents, modes):
        return coding._paint(DESIGN, *integers, latents, np.int32(step), modes, where.cells)

    # Four at once, and compiled as for users.
    four = jax.jit(jax.vmap(paint, (None, 0, 0)), compiler_options=AS_USUAL)
    many = four(integers, *(np.stack([where.cut(x)] * 4) for x in (latents, modes)))
    np.testing.assert_array_equal(where.join(many[3]), samples)
    with jax.disable_jit():
        again = coding.paint(DESIGN, frozen, latents, step, modes)
    np.testing.assert_array_equal(again, samples)


def test_groups_of_any_size_and_escapes_come_back_through_programs_that_both_ends_share():
    """Slices of 3 and 9 channels fill no whole step of the lanes; noise leaves every table."""
    design = Design("channel_conditional", (3, 9, 12), side=8, width=16, passes=(3, 2))
    design = design._replace(split=True)
    codec, before = coding.latent_codec(design), latent_walk._group._cache_size()
    params = freeze(design, codec.init(jax.random.key(0)))
    noise = np.random.default_rng(0).integers(0, 2, (8, 8, 3), dtype=np.uint8) * 255
    image = np.kron(noise, np.ones((8, 8, 1), np.uint8))
    choices = coding.analyse(design, params, image, 16 * 4)
    assert latent_walk._group._cache_size() == before + 6  # passes over the three slices
    escaping = [
        latent_walk.outside(params.wide, symbols, rows)[1].any()
        for symbols, rows in zip(choices.symbols, choices.rows, strict=True)
    ]
    assert sum(escaping) > 3
    check_codec(codec._replace(init=lambda key=None: params), image, quality=100)
    assert latent_walk._group._cache_size() == before + 6


def test_few_programs_for_many_sizes(frozen):
    programs = coding._analyse, coding._decide, coding._paint, latent_stream._pack
    programs = *programs, latent_stream._begin, latent_stream._pop, latent_walk._group
    CODEC.decode(frozen, CODEC.encode(frozen, photo(64, 64), quality=50))
    before = [program._cache_size() for program in programs]
    for shape in ((1, 1), (64, 70), (130, 200), (256, 256), (20, 1024)):
        payload = CODEC.encode(frozen, photo(*shape), quality=50)
        assert CODEC.decode(frozen, payload).shape == (*shape, 3)
    assert [program._cache_size() for program in programs] == before


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
    with pytest.raises(CorruptStream, match="12 bytes"):
        CODEC.decode(frozen, Payload(header, {}))


def test_damaged_tiles_are_named(frozen, small_tiles):
    payload = CODEC.encode(frozen, photo(64, 128), quality=50)
    data, header = payload.sections["data"], payload.header
    first = 2 + 10 + sum(struct.unpack_from("<HII", data, 2))
    assert first < len(data) - 10
    for position in (2, 4, 8, first, first + 2, first + 6):  # sizes of both tiles
        size = "<H" if position in (2, first) else "<I"
        for change in (-1, 1):
            damaged = bytearray(data)
            (before,) = struct.unpack_from(size, data, position)
            most = 256 ** struct.calcsize(size)
            struct.pack_into(size, damaged, position, (before + change) % most)
            with pytest.raises(CorruptStream):
                CODEC.decode(frozen, Payload(header, {"data": bytes(damaged)}))
            struct.pack_into(size, damaged, position, most - 1)
            with pytest.raises(CorruptStream, match="tiles"):
                CODEC.decode(frozen, Payload(header, {"data": bytes(damaged)}))
    for bad in (data[:first], data[:-1], data + b"x"):
        with pytest.raises(CorruptStream, match="tiles"):
            CODEC.decode(frozen, Payload(header, {"data": bad}))
    # A shape that would take terabytes is refused before anything is allocated.
    with pytest.raises(CorruptStream, match="tiles"):
        CODEC.decode(frozen, Payload({"shape": [1 << 20, 1 << 20, 3]}, payload.sections))


def watch(monkeypatch, name):
    """The shapes that a program of latent_coding is called with, from now on."""
    shapes, program = set(), getattr(coding, name)

    def watched(*arguments):
        shapes.add(tuple(np.shape(x) for x in jax.tree.leaves(arguments[2:])))
        return program(*arguments)

    monkeypatch.setattr(coding, name, watched)
    return shapes


def test_a_photo_of_several_tiles_keeps_the_law(frozen, small_tiles, monkeypatch):
    seen = {name: watch(monkeypatch, name) for name in ("_analyse", "_paint")}
    codec = CODEC._replace(init=lambda key=None: frozen)
    image = photo(250, 100)
    decoded, payload = check_codec(codec, image, quality=60)
    assert np.mean((decoded.astype(float) - image) ** 2) < 60
    assert all(len(shapes) == 1 for shapes in seen.values()), "several programs"
    # Tiles decode independently: in another order they are the same, elsewhere.
    data = payload.sections["data"]
    latents, modes, step = coding.read(DESIGN, frozen, data, (250, 100))
    starts = [2]
    for _ in range(8):
        starts.append(starts[-1] + 10 + sum(struct.unpack_from("<HII", data, starts[-1])))
    assert starts[-1] == len(data)
    tiles = [data[a:b] for a, b in zip(starts, starts[1:], strict=False)]
    swapped = data[:2] + b"".join(tiles[2:] + tiles[:2])
    again, *_ = coding.read(DESIGN, frozen, swapped, (250, 100))
    np.testing.assert_array_equal(np.roll(again, 4, axis=0), latents)


def test_painting_in_tiles_is_painting_whole(lively, small_tiles, monkeypatch):
    latents = np.random.default_rng(0).normal(0, 40, (16, 12, 64)).astype(np.int16)
    latents[..., 0] += 1000  # unlike the zeros that a convolution assumes beyond a border
    modes = np.random.default_rng(1).integers(0, 4, (16, 12), np.int32)
    whole = coding.paint(DESIGN, lively, latents, 300, modes)[:250, :180]
    assert coding.synthesis_halo(DESIGN) == 4
    tiled = coding.paint_tiles(DESIGN, lively, latents, 300, (250, 180), modes)
    np.testing.assert_array_equal(tiled, whole)
    monkeypatch.setattr(coding, "synthesis_halo", lambda design: 0)
    without = coding.paint_tiles(DESIGN, lively, latents, 300, (250, 180), modes)
    wrong = (without != whole).any(-1)
    # Three convolutions on quarters, of 4 pixels, see 12 pixels across a border, and no further.
    assert wrong[:, 52:76].any(0).all() and wrong[52:76].any(1).all()
    assert not wrong[76:116, 76:116].any()


def test_seams_are_not_seen(frozen, monkeypatch):
    image = photo(64, 256)
    one, _ = CODEC.apply(frozen, image, quality=40)
    monkeypatch.setattr(latent_tiles, "TILE", 64)
    several, _ = CODEC.apply(frozen, image, quality=40)
    assert (one != several).any()
    near = (np.arange(256) + 16) % 64 < 32
    near[:16] = near[-16:] = False

    def psnr_db(decoded):
        error = np.mean((decoded.astype(float) - image)[:, near] ** 2)
        return 10 * np.log10(255**2 / error)

    assert psnr_db(several) > psnr_db(one) - 0.1


def test_each_step_is_analysed_once(frozen, small_tiles, monkeypatch):
    steps, alive = [], []

    def watched(design, params, samples, step, tile, iterations, program=coding.analyse):
        assert sum(choices() is not None for choices in alive) <= 1
        steps.append(step)
        choices = program(design, params, samples, step, tile, iterations)
        alive.append(weakref.ref(choices.latents))
        return choices

    monkeypatch.setattr(coding, "analyse", watched)
    CODEC.encode(frozen, photo(64, 64), bpp=2.0)
    assert len(set(steps)) == len(steps) > 1
    # Several tiles are too many to keep: the last step's are analysed again, to be written.
    steps.clear(), alive.clear()
    payload = CODEC.encode(frozen, photo(128, 128), bpp=2.0)
    assert len(steps) == 4 * (len(set(steps)) + 1)
    assert 8 * len(payload.sections["data"]) <= 2.0 * 128 * 128
