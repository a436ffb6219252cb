"""Learn the integers of the dct codec, jaxcomp/codecs/dct_tables.npz, from a folder of photos.

    python benchmarks/train_dct.py [--data DIR] [--work DIR] [--out FILE.npz] [--rounds 3]

DIR holds train_photos/*.jpg. Crops are taken at random offsets and scales of 0.6 to 0.9, with one
of five resampling filters, so that the photos' own JPEG grid is not learned; smooth crops are more
likely, because large photos are smoother than small ones. Crops of 160 pixels are laid out as
photos of 640x480. A tenth of the photos is held out: BD-rates against Pillow's JPEG are printed for
crops of those.

Each round quantizes the crops with the tables of the last round, at steps 5 to 150, fits the
network and soft tables by gradient descent on the code length, rounds the network to integers, and
counts tables and reconstruction points with the rounded network. The filter is a least squares fit
after the last round. Every round is kept in --work and found there again. About half an hour on 2
cores.
"""

import argparse
import functools
import importlib
import io
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image

from jaxcomp import coding
from jaxcomp.codecs import dct_coder, dct_context, dct_filter, dct_synthesis, dct_tile
from jaxcomp.codecs.dct_context import CERTAIN, CLASSES, CODING_ORDER, FEATURES, HIDDEN, KINDS
from jaxcomp.codecs.dct_symbols import EDGES, SYMBOLS
from jaxcomp.codecs.dct_transform import COLOUR
from jaxcomp.measures import bd_rate_percent

dct = importlib.import_module("jaxcomp.codecs.dct")

SHARED = Path(__file__).parents[1] / "../shared/data"
CROP, ACROSS, DOWN = 160, 4, 3
STEPS = (5, 7, 10, 14, 20, 28, 36, 48, 64, 84, 110, 150)
FILTER_STEPS = (6, 12, 20, 28, 40, 56, 80, 110, 150, 200, 300, 45)
RESAMPLING = (Image.BICUBIC, Image.LANCZOS, Image.BILINEAR, Image.BOX, Image.HAMMING)
TAP_TERMS = len(dct_filter.TAPS) * dct_filter.THRESHOLDS
PROPERTIES = dct_filter.PLACES + dct_filter.TEXTURES


def crop(path: Path, rng: np.random.Generator) -> np.ndarray:
    """One crop u8[CROP, CROP, 3] at a random scale, offset and orientation."""
    image = Image.open(path).convert("RGB")
    width, height = image.size
    scale = rng.uniform(max(0.6, (CROP + 2) / (min(width, height) - 4)), 0.9)
    x, y = rng.uniform(0, 4, 2)
    size = int((width - 4) * scale), int((height - 4) * scale)
    box = (x, y, x + width - 4, y + height - 4)
    pixels = np.asarray(image.resize(size, RESAMPLING[rng.integers(5)], box=box))
    y, x = (rng.integers(side - CROP + 1) for side in pixels.shape[:2])
    pixels = pixels[y : y + CROP, x : x + CROP]
    pixels = pixels[:, :: rng.choice([-1, 1])]
    return pixels.swapaxes(0, 1) if rng.random() < 0.5 else pixels


def photos(paths: list[Path], count: int, seed: int) -> np.ndarray:
    """u8[count, 480, 640, 3], laid out from crops of which the smoother half is likelier."""
    rng = np.random.default_rng(seed)
    wanted = count * ACROSS * DOWN
    crops = np.stack([crop(paths[rng.integers(len(paths))], rng) for _ in range(2 * wanted)])
    detail = np.abs(np.diff(crops.astype(np.int16), axis=1)).mean((1, 2, 3))
    # A weighted draw without replacement: the least exponential variables with these rates.
    order = np.argsort(rng.exponential(size=len(crops)) * (detail / np.median(detail)))
    chosen = crops[rng.permutation(order[:wanted])]
    chosen = chosen.reshape(count, DOWN, ACROSS, CROP, CROP, 3).swapaxes(2, 3)
    return chosen.reshape(count, DOWN * CROP, ACROSS * CROP, 3)


def first_model() -> dict[str, np.ndarray]:
    """A network of zeros and geometric tables: what the first round quantizes with."""
    sizes = np.arange(SYMBOLS)
    pmf = np.tile(np.where(sizes == 0, 0.8, 0.2 * 0.5**sizes), (dct_coder.TABLES, 1))
    zeros = initial(np.zeros((dct_context.ZONES, CLASSES, SYMBOLS)))
    return stored(jax.tree.map(np.zeros_like, zeros), pmf, np.zeros((dct_coder.TABLES, 3)))


def initial(logits: np.ndarray | None = None) -> dict[str, jax.Array]:
    """Parameters of the network in floats, and of its soft tables (geometric, growing means)."""
    keys = jax.random.split(jax.random.key(0), 2)
    if logits is None:
        mean = 0.02 * 1.15 ** np.arange(CLASSES)
        logits = np.log(np.maximum((mean / (1 + mean))[:, None] ** EDGES, 1e-12))
        logits = np.tile(logits, (dct_context.ZONES, 1, 1))
    known = (jnp.arange(FEATURES + KINDS) < FEATURES)[:, None]
    first = 0.5 * FEATURES**-0.5 * jax.random.normal(keys[0], (6, FEATURES + KINDS, HIDDEN))
    return {
        "first": first * known,
        "plane": jnp.zeros((dct_context.PLANES, HIDDEN)),
        "step": jnp.zeros((6, HIDDEN)),
        "second": 0.5 * HIDDEN**-0.5 * jax.random.normal(keys[1], (6, HIDDEN)),
        "bias": jnp.zeros(dct_context.PLANES),
        "logits": jnp.asarray(logits, jnp.float32),
    }


def code_length(params, known, plane, kind, log_step, symbols):
    """Mean bits of symbols; the tables of the two nearest classes are mixed."""
    group = jnp.asarray(dct_context.GROUP)[plane]
    x = jnp.concatenate([known.astype(jnp.float32) / 16, jax.nn.one_hot(kind, KINDS)], -1)
    hidden = sum(jnp.where((group == g)[:, None], x @ params["first"][g], 0) for g in range(6))
    hidden += params["plane"][plane] + params["step"][group] * (log_step[:, None] / 8.0 - 9)
    size = 6 * (jax.nn.relu(hidden) * params["second"][group]).sum(-1) + params["bias"][plane] + 12
    size = jnp.clip(size, 0, CLASSES - 1.001)
    low = size.astype(jnp.int32)
    zone = jnp.asarray(dct_context.ZONE)[plane]
    pmf = jax.nn.softmax(params["logits"])
    mixed = pmf[zone, low, symbols] * (low + 1 - size) + pmf[zone, low + 1, symbols] * (size - low)
    return -jnp.log2(mixed + 1e-9).mean()


def fit(params, rows, steps: int, rate: float):
    """Adam on the code length of random batches of rows."""
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, batch):
        bits, gradient = jax.value_and_grad(code_length)(params, *batch)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, bits

    rng, started, total = np.random.default_rng(0), time.time(), 0.0
    for i in range(1, steps + 1):
        chosen = rng.integers(0, len(rows[0]), 1 << 15)
        batch = [row[chosen].astype(np.int32) for row in rows[:5]]
        params, state, bits = step(params, state, batch)
        total += float(bits)
        if i % 250 == 0:
            print(f"  {i} bits {total / 250:.4f}  {time.time() - started:.0f} s", flush=True)
            total = 0.0
    return params


def integers(params) -> dict[str, np.ndarray]:
    """The network rounded as dct_context reads it."""
    p = {name: np.asarray(value, np.float64) for name, value in params.items()}
    unit = 1 << dct_context.HIDDEN_BITS
    first = p["first"].transpose(0, 2, 1) * unit
    first[..., :FEATURES] /= 16
    # log_step / 8 - 9 becomes a weight of log_step and a part of the planes' bias.
    plane = (p["plane"] - 9 * p["step"][dct_context.GROUP]) * unit
    bias = (p["bias"] + 12 + 0.5) * (unit << dct_context.SECOND_BITS)
    scaled = (
        (first, 4095),
        (plane, 32767),
        (p["step"] / 8 * unit, 511),
        (p["second"] * 6 * (1 << dct_context.SECOND_BITS), 2047),
        (bias, 1 << 27),
    )
    values = (np.clip(np.rint(value), -limit, limit).astype(np.int32) for value, limit in scaled)
    return dict(zip(dct_context.Network._fields, values, strict=True))


def stored(params, pmf, points, weights=None) -> dict[str, np.ndarray]:
    """What dct_tables.npz holds."""
    if weights is None:
        shape = (dct_coder.STEP_CLASSES, 2, TAP_TERMS, PROPERTIES)
        weights = np.zeros(shape, np.int16)
    shape = (dct_coder.STEP_CLASSES, 2, len(dct_filter.TAPS), dct_filter.THRESHOLDS, PROPERTIES)
    frequencies = np.asarray(coding.build_tables(pmf).frequencies)
    scale = 1 << dct_synthesis.OFFSET_BITS
    network = {
        name: value.astype(np.int16) if np.abs(value).max() < 1 << 15 else value
        for name, value in integers(params).items()
    }
    return {
        **network,
        "frequencies": (frequencies - 1).astype(np.uint16),
        "offsets": np.clip(np.rint(points * scale), -32, 32).astype(np.int8),
        "weights": weights.reshape(shape),
    }


_traced = jax.jit(functools.partial(dct_coder.choose, trace=True))


def collect(model, images, share: float, seed: int):
    """Rows of a share of all coefficients, and counts of the modes' symbols.

    Rows: features, plane, kind, log step, symbol, table, magnitude in steps.
    """
    rng = np.random.default_rng(seed)
    rows, counts = [], np.zeros((dct_coder.TABLES, SYMBOLS))
    for i, image in enumerate(images):
        step = int(16 * STEPS[i % len(STEPS)] * np.exp(rng.uniform(-0.2, 0.2)))
        grid = dct_tile.grid_of(*image.shape[:2])
        blocks = dct_tile._to_blocks(image, len(grid.members))
        weight = np.float32(dct_tile.RATE_WEIGHT)
        arguments = model.network, model.bits, blocks, grid._replace(order=()), np.int32(step)
        choices, known, scaled = jax.tree.map(np.asarray, _traced(*arguments, weight))
        np.add.at(counts, (choices.mode_index, choices.mode_symbols), 1)
        position, slot = np.nonzero(
            choices.planes[:, None] & (grid.valid == 1) & (rng.random(scaled.shape) < share)
        )
        plane = CODING_ORDER[position]
        kinds = np.stack([choices.modes, grid.level])
        log_step = np.full(len(plane), int(dct_context.logarithm(jnp.int32(step))))
        rows.append(
            (
                known[position, :, slot],
                plane.astype(np.int16),
                kinds[(plane % 256 == 0).astype(int), slot].astype(np.uint8),
                log_step.astype(np.uint8),
                choices.symbols[position, slot],
                np.abs(scaled[position, slot]).astype(np.float32),
            )
        )
    return [np.concatenate(column) for column in zip(*rows, strict=True)], counts


def tables_of(network, rows) -> np.ndarray:
    """The table of each row, by the integer network."""
    one = jax.vmap(
        lambda known, plane, kind, log_step: dct_context.classify(
            network, known[:, None], plane, jnp.stack([kind, kind])[:, None], log_step
        )[0]
    )
    size = 1 << 17
    out = []
    classify = jax.jit(one)
    for start in range(0, len(rows[0]), size):
        part = [row[start : start + size].astype(np.int32) for row in rows[:4]]
        missing = size - len(part[0])
        part = [np.pad(p, [(0, missing)] + [(0, 0)] * (p.ndim - 1)) for p in part]
        out.append(np.asarray(classify(*part))[: size - missing])
    return np.concatenate(out)


def count(params, rows, mode_counts):
    """Tables and reconstruction points as the rounded network sees the rows."""
    network = dct_context.Network(*map(jnp.asarray, integers(params).values()))
    table, symbols, size = tables_of(network, rows), rows[4].astype(int), rows[5]
    soft = np.asarray(jax.nn.softmax(params["logits"])).reshape(-1, SYMBOLS)
    pmf = mode_counts.copy()
    np.add.at(pmf, (table, symbols), 1)
    # The soft tables count as 30 coefficients each.
    pmf[:CERTAIN] += 30 * (soft + np.roll(soft, -1, 0)) / 2 + 1e-3 * 0.5 ** np.arange(SYMBOLS)
    pmf[dct_coder.WHOLE_TABLE : dct_coder.MODE_TABLE, :2] += 1
    pmf[dct_coder.MODE_TABLE :, :4] += 1
    pmf[CERTAIN] = np.arange(SYMBOLS) == 0
    points = np.zeros((dct_coder.TABLES, 3))
    for k in range(3):
        held = (symbols == k + 1) if k < 2 else (symbols >= 3) & (symbols < 12)
        shift = (size - symbols)[held]
        found = np.bincount(table[held], minlength=dct_coder.TABLES)
        total = np.bincount(table[held], weights=shift, minlength=dct_coder.TABLES)
        points[:, k] = (total + 20 * shift.mean()) / (found + 20)
    points[4 * CLASSES :] = 0  # means are coded losslessly
    return pmf / pmf.sum(1, keepdims=True), points


@jax.jit
def _canvases(coefficients, modes, grid, where, stride, step):
    planes, modes = dct_synthesis.planes_of(coefficients, modes, grid)
    canvas, place = dct_synthesis.on_canvas(planes, modes, where)
    kind = place * dct_filter.TEXTURES + dct_filter.textures(canvas[0], stride, step)
    taps = jnp.arange(len(dct_filter.TAPS))
    terms = [
        jax.lax.map(lambda t, c=c: dct_filter.terms(canvas[c], t, stride, step), taps)
        for c in range(3)
    ]
    return canvas, kind, jnp.stack(terms).reshape(3, TAP_TERMS, -1)


def fit_filter(model, images) -> np.ndarray:
    """Least squares weights i16[STEP_CLASSES, 2, TAP_TERMS, PROPERTIES]."""
    kinds = dct_filter.PLACES * dct_filter.TEXTURES
    shape = (dct_coder.STEP_CLASSES, 2, dct_filter.PLACES, dct_filter.TEXTURES, TAP_TERMS)
    left, right = np.zeros((*shape, TAP_TERMS)), np.zeros(shape)
    rng = np.random.default_rng(1)
    height, width = images.shape[1:3]
    # Samples near the seams of a layout are left out.
    y, x = (np.minimum(i % CROP, CROP - 1 - i % CROP) for i in np.mgrid[0:height, 0:width])
    inside = np.minimum(y, x) >= 4
    for i, image in enumerate(images):
        step = int(16 * FILTER_STEPS[i % len(FILTER_STEPS)] * np.exp(rng.uniform(-0.2, 0.2)))
        grid = dct_tile.grid_of(height, width)
        choices = dct_tile.analyse(model, image, step)
        planes = np.flatnonzero(choices.planes)
        coefficients = dct_synthesis.reconstruct(
            model.offsets, grid, step, planes, choices.index[planes], choices.values[planes]
        )
        where, stride = dct_tile._canvas(height // 32, width // 32, len(grid.valid))
        scalars = np.int32(stride), np.int32(step)
        arrays = _canvases(coefficients, choices.modes, grid._replace(order=()), where, *scalars)
        margin = dct_filter.MARGIN

        def cut(array, stride=stride, margin=margin):
            array = np.asarray(array)[..., : (height + 2 * margin) * stride]
            array = array.reshape(*array.shape[:-1], height + 2 * margin, stride)
            return array[..., margin : margin + height, margin : margin + width][..., inside]

        canvas, kind, terms = map(cut, arrays)
        target = np.einsum("ck,hwk->chw", COLOUR, image - 128.0)[:, inside] * 8 - canvas
        order = np.argsort(kind, kind="stable")
        ends = np.searchsorted(kind[order], np.arange(kinds + 1))
        octave = dct_tile._step_class(step)
        for c in range(3):
            a = (terms[c][:, order] * (2 / step)).astype(np.float32)
            b = (target[c][order] * (2 / step)).astype(np.float32)
            for k in np.flatnonzero(np.diff(ends)):
                part = slice(ends[k], ends[k + 1])
                at = (octave, min(c, 1), *divmod(k, dct_filter.TEXTURES))
                left[at] += a[:, part] @ a[:, part].T
                right[at] += a[:, part] @ b[part]
        if i % 10 == 9:
            print(f"  filter: {i + 1} of {len(images)}", flush=True)
    solved = [[_solve(*pair) for pair in zip(*two, strict=True)] for two in zip(left, right)]  # noqa: B905
    weights = np.rint(np.array(solved) * (1 << dct_filter.WEIGHT_BITS))
    return np.clip(weights, -16000, 16000).astype(np.int16)


def _solve(left, right, ridge=0.3):
    """Weights [TAP_TERMS, PROPERTIES] of the additive model, from sums by place and texture."""
    places, textures, n = right.shape
    joint = np.zeros((PROPERTIES, n, PROPERTIES, n))
    for i in range(places):
        joint[i, :, i] = left[i].sum(0)
        for j in range(textures):
            joint[i, :, places + j] = left[i, j]
            joint[places + j, :, i] = left[i, j].T
    for j in range(textures):
        joint[places + j, :, places + j] = left[:, j].sum(0)
    size = PROPERTIES * n
    both = np.concatenate([right.sum(1), right.sum(0)]).reshape(size)
    matrix = joint.reshape(size, size) + ridge * np.eye(size)
    return np.linalg.solve(matrix, both).reshape(PROPERTIES, n).T


def judge(model, images) -> float:
    """BD-rate in percent against Pillow's JPEG, mean over the held-out photos."""
    rates = []
    for image in images:
        curves = {"jpeg": [], "dct": []}
        for quality in (10, 25, 40, 60, 80, 94):
            file = io.BytesIO()
            Image.fromarray(image).save(file, "JPEG", quality=quality, optimize=True)
            found, bits = dct.apply(model, image, quality=quality)
            for name, size, pixels in (
                ("jpeg", 8 * len(file.getvalue()), np.asarray(Image.open(file))),
                ("dct", bits + 8 * 150, found),
            ):
                error = np.mean((image.astype(np.float64) - pixels) ** 2)
                curves[name].append((size, 10 * np.log10(255**2 / error)))
        jpeg, ours = (np.array(curve).T for curve in curves.values())
        rates.append(bd_rate_percent(*jpeg, *ours))
    return float(np.mean(rates))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=SHARED if SHARED.exists() else None)
    parser.add_argument("--work", type=Path, default=Path("scratch/train_dct"))
    parser.add_argument("--out", type=Path, default=Path("jaxcomp/codecs/dct_tables.npz"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--photos", type=int, default=90, help="training photos of 640x480")
    parser.add_argument("--steps", type=int, default=2500, help="gradient steps per round")
    arguments = parser.parse_args()
    paths = sorted((arguments.data or Path()).glob("train_photos/*.jpg"))
    if not paths:
        parser.error("--data: expected the folder that holds train_photos/*.jpg")
    paths = [paths[i] for i in np.random.default_rng(0).permutation(len(paths))]
    held = len(paths) // 10
    arguments.work.mkdir(parents=True, exist_ok=True)
    images = photos(paths[held:], arguments.photos, 2)
    judges = photos(paths[:held], 4, 1)
    params, result = initial(), first_model()
    for number in range(arguments.rounds):
        path = arguments.work / f"round_{number}.npz"
        if path.exists():
            print(f"round {number}: found in {path}", flush=True)
            with np.load(path) as found:
                params = {name: jnp.asarray(found["params_" + name]) for name in params}
                result = {name: found[name] for name in result}
            continue
        part = images[number % 2 :: 2] if number + 1 < arguments.rounds else images
        rows, modes = collect(dct.build(result), part, 5.0 / len(part), number)
        print(f"round {number}: {len(rows[0])} rows", flush=True)
        params = fit(params, rows, arguments.steps, 1e-2 if number == 0 else 6e-3)
        result = stored(params, *count(params, rows, modes))
        np.savez(path, **result, **{"params_" + k: np.asarray(v) for k, v in params.items()})
        print(f"round {number}: BD-rate {judge(dct.build(result), judges):.2f} %", flush=True)
    weights = fit_filter(dct.build(result), images[:60])
    result["weights"] = weights.reshape(result["weights"].shape)
    np.savez_compressed(arguments.out, **result)
    print(f"with the filter: BD-rate {judge(dct.build(result), judges):.2f} %")
    print(f"{arguments.out}: {arguments.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
