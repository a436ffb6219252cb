"""A photo to latents and back, tile by tile: the codec that follows training.

Analysis runs in floats, and only the encoder sees it. All that decides an integer, and the samples
that latents paint, are integers.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, UInt8

from jaxcomp.base import Codec, Payload
from jaxcomp.nets import gain

from .compile_ahead import compile_ahead
from .dct_transform import to_samples
from .latent_codec import GAIN_BITS, Design, coded, init, joined, networks, train
from .latent_flags import worth_naming
from .latent_frozen import CERTAIN, Frozen, freeze
from .latent_plane import SIDE_STRIDE, layout
from .latent_prior import LATENT, SIDE, level_of
from .latent_refine import refine
from .latent_rounding import decide
from .latent_stream import OVERHEAD_BITS, read, write, writing_programs
from .latent_tiles import Box, count_tiles, cut, one_tile, padded_shape, tiles
from .latent_transforms import BLOCK, QUARTER, scale_planes, to_planes
from .latent_walk import (
    Choices,
    bits,
    bits_of_zero,
    group_programs,
    in_steps,
    side_rows,
    slices_of_groups,
    tables_of,
    walk,
)
from .quality import RATE_WEIGHT, find_step
from .samples import from_colour, read_shape, to_colour


def synthesis_halo(design: Design) -> int:
    """Blocks around a tile that determine its samples: each convolution reaches a quarter.

    In whole cells, as layouts have them.
    """
    return -(-networks(design).synthesis.blocks * QUARTER // (SIDE_STRIDE * BLOCK)) * SIDE_STRIDE


@functools.partial(jax.jit, static_argnums=0)
def _analyse(design, analysis, prior, inverse_gains, samples, step, cells):
    """Latents in units of their steps, modes, the steps' squared size, and side information."""
    nets = networks(design)
    planes = to_planes(samples.astype(jnp.float32))
    scale = (1 << GAIN_BITS) / inverse_gains[level_of(step)].astype(jnp.float32)
    y, modes = coded(design, nets.analysis.apply(analysis, planes, step[None] / 16.0))
    y = scale * y
    z = nets.prior.apply(prior, y, cells, method="summarise")
    return y, modes, scale**2, jnp.clip(jnp.floor(z + 0.5), SIDE.low, SIDE.high).astype(jnp.int32)


def _programs(add, design, frozen, encoder, seen, step, where):
    """Those of encoding a tile."""
    _, modes, _, z = add(_analyse, design, *encoder, seen, step, where.cells)
    writing_programs(add, design, frozen, where)
    rows = group_programs(add, design, frozen.prior_integers, z, step, modes, where.cells)
    for row in {row.shape: row for _, row in rows}.values():
        value, mean = (jax.ShapeDtypeStruct(row.shape, t) for t in (np.float32, LATENT.dtype))
        add(_decide, value, value, mean, row)


@jax.jit
def _decide(y, weight, mean, row):
    """Symbols of a group; all [steps, LANES]."""
    value = y - mean.astype(jnp.float32) * LATENT.step
    return jnp.where(row == CERTAIN, 0, decide(value, row, weight).astype(jnp.int32))


def _choose(design, integers, y, modes, weight, z, step, cells):
    """(latents, symbols and rows of each group), of y and what a latent's error counts."""
    symbols, rows = [], []
    by_place, weight = np.asarray(y).reshape(-1, y.shape[-1]), RATE_WEIGHT * np.asarray(weight)
    starts = np.cumsum((0, *design.slices))
    passes = networks(design).prior.passes_of

    def visit(k, number, mean, row):
        places = np.minimum(cells.places[passes(k)][number], len(by_place) - 1)
        channels = slice(starts[k], starts[k + 1])
        here = by_place[:, channels][places]
        each = np.broadcast_to(weight[channels], here.shape)
        given = here, each, np.asarray(mean)
        found = _decide(*(in_steps(x, len(row), 0) for x in given), row)
        symbols.append((found, here.shape))
        rows.append((row, here.shape))
        return found

    given = jax.device_put((z, step, modes, np.ones(y.shape[-1], bool), cells))
    latents = walk(design, integers, *given, visit)
    latents, symbols, rows = jax.device_get((latents, symbols, rows))
    symbols, rows = ([x.ravel()[: math.prod(n)].reshape(n) for x, n in y] for y in (symbols, rows))
    return np.concatenate(latents, -1), symbols, rows


def analyse(
    design: Design,
    frozen: Frozen,
    samples: UInt8[np.ndarray, "h w 3"],
    step: int,
    box: Box | None = None,
    iterations: int = 0,
) -> Choices:
    """What to write for a tile of a photo at a step in 1/16; by default the photo is one tile.

    iterations: of latent_refine.
    """
    box = box or one_tile(*samples.shape[:2])
    where = layout(box.height // BLOCK, box.width // BLOCK)
    encoder = frozen.analysis, frozen.prior, frozen.inverse_gains
    seen, cells = where.cut(cut(samples, box)), where.cells
    compile_ahead(
        ("encode", design, len(cells.near)),
        lambda add: _programs(add, design, frozen, encoder, seen, np.int32(step), where),
    )
    y, modes, weight, z = _analyse(design, *encoder, seen, np.int32(step), cells)
    if iterations:
        on_grid = [None if x is None else where.join(x)[None] for x in (y, modes, z)]
        y = refine(
            design,
            frozen,
            *on_grid[:2],
            weight,
            on_grid[2],
            samples[box.slices()],
            step,
            iterations,
        )
        y = where.cut(np.asarray(y[0]))
    latents, symbols, rows = _choose(
        design, frozen.prior_integers, y, modes, weight, z, np.int32(step), cells
    )
    modes = jax.device_get(modes)
    by_slice = np.split(np.arange(sum(design.slices)), np.cumsum(design.slices)[:-1])
    active, zeros = np.zeros(sum(design.slices), bool), np.zeros(sum(design.slices))
    for k, group, row in zip(slices_of_groups(design), symbols, rows, strict=True):
        active[by_slice[k]] |= (group != 0).any(0)
        zeros[by_slice[k]] += bits_of_zero(tables_of(frozen, k))[row].sum(0)
    active = worth_naming(active, zeros)
    rows = [
        np.where(active[by_slice[k]], row, CERTAIN).astype(np.int32)
        for k, row in zip(slices_of_groups(design), rows, strict=True)
    ]
    side = np.where(side_rows(where, design.side) < design.side, z, 0)
    return Choices(latents, modes, symbols, rows, side, active, where)


@functools.partial(jax.jit, static_argnums=0)
def _paint(design, integers, inverse_gains, latents, step, modes, cells):
    row = inverse_gains[level_of(step)]
    latents = gain.multiply(latents, row, source=LATENT, target=LATENT, fraction=GAIN_BITS)
    planes = networks(design).synthesis.apply(integers, joined(latents, modes), modes, cells)
    planes = jnp.moveaxis(scale_planes(planes, step), -1, 1)
    return jnp.moveaxis(to_samples(planes), 1, -1).astype(jnp.uint8)


def paint(
    design: Design,
    frozen: Frozen,
    latents: Int[np.ndarray, "h w c"],
    step: int,
    modes: Int[np.ndarray, "h w"] | None = None,
) -> UInt8[np.ndarray, "height width 3"]:
    """The samples of latents at a step in 1/16: integers all the way."""
    where = layout(*latents.shape[:2])
    integers = frozen.synthesis_integers, frozen.inverse_gains
    modes = None if modes is None else where.cut(modes)
    latents = where.cut(latents)
    return where.join(_paint(design, *integers, latents, jnp.int32(step), modes, where.cells))


def paint_tiles(
    design: Design,
    frozen: Frozen,
    latents: Int[np.ndarray, "h w c"],
    step: int,
    shape: tuple[int, int],
    modes: Int[np.ndarray, "h w"] | None = None,
) -> UInt8[np.ndarray, "height width 3"]:
    """What paint says of a photo of this shape, a window at a time."""
    samples = np.empty((*shape, 3), np.uint8)
    for box, window in tiles(*shape, halo=synthesis_halo(design)):
        where = window.slices(BLOCK)
        inside = None if modes is None else modes[where]
        seen = paint(design, frozen, latents[where], step, inside)
        target = samples[box.slices()]
        inner = box.within(window)._replace(height=target.shape[0], width=target.shape[1])
        target[...] = seen[inner.slices()]
    return samples


def latent_codec(design: Design) -> Codec:
    """The codec of a design.

    init(key) gives floats to train; apply(params, images, key=, quality=) is what training sees;
    encode and decode take those, or what freeze made of them once. encode and apply refine latents
    so many iterations: smaller files, and a second or so for each; with bpp= for each step tried.
    """

    def frozen(params):
        return params if isinstance(params, Frozen) else freeze(design, params)

    def choose(params, image, quality, bpp, iterations):
        """(step, the choices of each tile)."""
        colour = to_colour(image, design.name)
        height, width = colour.shape[:2]
        count, last = count_tiles(height, width), {}

        def choices(step):
            if step not in last:
                found = (
                    analyse(design, params, colour, step, box, iterations)
                    for box, _ in tiles(height, width, halo=0)
                )
                if count > 1:
                    return found  # too many to keep: one at a time, and again when they are written
                last.clear()
                last[step] = list(found)
            return last[step]

        step = find_step(
            lambda step: sum(bits(design, params, step, tile) for tile in choices(step)),
            quality,
            bpp,
            pixels=height * width,
            overhead_bits=count * OVERHEAD_BITS,
        )
        return step, choices(step)

    def apply(params, image, *, key=None, quality=None, bpp=None, refine=0):
        if key is not None:
            return train(design, params, image, key, quality)
        params, image = frozen(params), np.asarray(image)
        step, choices = choose(params, image, quality, bpp, refine)
        rows, columns = (n // BLOCK for n in padded_shape(*image.shape[:2]))
        latents = np.empty((rows, columns, sum(design.slices)), LATENT.dtype)
        modes = np.empty((rows, columns), np.int32) if design.split else None
        total = 0.0
        for (box, _), tile in zip(tiles(*image.shape[:2], halo=0), choices, strict=True):
            latents[box.slices(BLOCK)] = tile.layout.join(tile.latents)
            if modes is not None:
                modes[box.slices(BLOCK)] = tile.layout.join(tile.modes)
            total += bits(design, params, step, tile)
        samples = paint_tiles(design, params, latents, step, image.shape[:2], modes)
        return from_colour(samples, image.shape), total

    def encode(params, image, *, quality=None, bpp=None, refine=0):
        params, image = frozen(params), np.asarray(image)
        step, choices = choose(params, image, quality, bpp, refine)
        data = write(design, params, step, choices)
        return Payload({"shape": list(image.shape)}, {"data": data})

    def decode(params, payload):
        params, shape = frozen(params), read_shape(payload.header)
        data = payload.sections.get("data", b"")
        latents, modes, step = read(design, params, data, shape[:2])
        return from_colour(paint_tiles(design, params, latents, step, shape[:2], modes), shape)

    return Codec(functools.partial(init, design), apply, encode, decode, design.name)
