"""Floats to blocks of GGUF: for each block the scale, and minimum, of least squared error.

    min over d, q of |x - d level(q)|^2      and      min over d, m, q of |x - (d q + m)|^2

by trying some scales, rounding to the nearest codes, and solving for the best scale (and minimum)
of those codes, which is a division. With scales of scales these are rounded in turn, and codes are
chosen again, so that the error is that of what is stored. Scales are rounded to their float16 first
too. Weights count alike: there is no importance matrix. The search is our own: files are valid
GGUF, with other codes than other tools choose, and the errors are measured in the tests.
"""

import numpy as np

from jaxcomp.base import UnsupportedInput
from jaxcomp.formats.float4 import MAGNITUDES
from jaxcomp.io.gguf_blocks import Kind, join, kind, unsigned_e4m3

CHUNK = 1 << 18  # values at a time: what a search holds stays in cache
FINE = 0.25  # between the levels that the largest value is tried at, where levels are few
MOST = 65504.0  # the largest float16
TINY = np.float32(1e-30)
# Levels by which the grid of codes with a minimum is made longer than its codes, or shorter, at
# first: shorter clips, longer leaves room at the end.
TRIED = tuple(np.linspace(-1.5, 0.75, 10))


def encode(x: np.ndarray, name: str) -> np.ndarray:
    """u8 [n, bytes of a block] of floats [n, values of a block], which `decode` reads.

    UnsupportedInput for values that are not finite, or beyond what scales in float16 reach; with
    those of NVFP4, in e4m3, 2688. Its least scales are not far below small weights: Gaussian ones
    of 0.003 lose a fifth of their squares, of 0.02 0.0094, from 0.1 to 400 0.0068.
    """
    made = kind(name)
    if not np.isfinite(x).all():
        raise UnsupportedInput(
            f"expected finite weights for {name}, got some that are not; repair the checkpoint"
        )
    rows = max(1, CHUNK // made.values)
    with np.errstate(over="ignore", invalid="ignore"):  # of what is too large, and then refused
        done = [_encode(x[i : i + rows], name, made) for i in range(0, len(x), rows)]
    return np.concatenate(done) if done else np.zeros((0, made.nbytes), np.uint8)


def _encode(x, name, made):
    x = x.astype(np.float32)
    if name == "MXFP4":
        parts = _shared_exponent(x, made)
    elif name == "NVFP4":
        parts = _shared_e4m3(x, made)
    elif name in ("Q4_1", "Q5_1"):
        parts = _affine(x, made)
    elif name in ("Q2_K", "Q4_K", "Q5_K"):
        parts = _affine_super(x, made)
    elif made.group:
        parts = _scaled_super(x, made)
    else:
        d = _half(_best_scale(x, made), name)
        parts = {"d": d, "codes": _codes(_over(x, d.astype(np.float32)[:, None]), made)}
    return join(parts, name)


def _half(x, name="these blocks"):
    if np.abs(x).max(initial=0) > MOST:
        raise UnsupportedInput(
            f"expected weights whose scales float16 holds, up to {MOST:.0f}, for {name}; got "
            f"{np.abs(x).max():.3g}; keep the array as F32, or scale it"
        )
    return x.astype(np.float16)


def _over(x, scale):
    return np.divide(x, scale, out=np.zeros_like(x), where=scale != 0)


def _levels(made: Kind) -> np.ndarray:
    """f32[codes]: the level of each."""
    if made.levels is not None:
        return np.asarray(made.levels, np.float32)
    return np.arange(1 << _bits(made), dtype=np.float32) - made.offset


def _bits(made):
    if made.fields[0].part == "trits":
        return 2
    return max(f.shift + f.bits for f in made.fields if f.part == "codes")


def _top(made):
    """The highest code: ternary blocks use three of four."""
    return 2 if made.offset == 1 else (1 << _bits(made)) - 1


def _codes(u, made):
    """u8: the nearest code of each u = x / scale."""
    if made.levels is None:
        return np.clip(np.rint(u) + made.offset, 0, _top(made)).astype(np.uint8)
    levels, order = np.unique(_levels(made), return_index=True)
    middles = (levels[1:] + levels[:-1]) / 2
    return order.astype(np.uint8)[np.searchsorted(middles, u)]


def _tries(made):
    """Levels at which the largest value is tried: those beyond half of the grid, both signs."""
    if made.levels is not None:
        levels = np.unique(_levels(made))
        return levels[np.abs(levels) > np.abs(levels).max() / 2]
    low, high = -float(made.offset), float(_top(made) - made.offset)
    if _bits(made) == 8:
        return np.asarray([high, low], np.float32)
    step = FINE if _bits(made) <= 4 else 1.0
    down = np.arange(low, low / 2, step)
    up = np.arange(high, high / 2, -step)
    return np.concatenate([down, up]).astype(np.float32)


def _best_scale(x, made):
    """f32[n] of x [n, g]: the scale of least squares."""
    levels = _levels(made)
    at = np.abs(x).argmax(1)
    extreme = x[np.arange(len(x)), at]
    best, gain = np.zeros(len(x), np.float32), np.full(len(x), -1.0, np.float32)
    for level in _tries(made):
        scale = extreme / level
        for _ in range(2):  # the second time from the best scale of these codes
            q = levels[_codes(_over(x, scale[:, None]), made)]
            xq, qq = (x * q).sum(1), np.maximum((q * q).sum(1), TINY)
            scale = xq / qq
            found = xq * scale  # what of |x|^2 is explained
            better = found > gain
            best, gain = np.where(better, scale, best), np.where(better, found, gain)
            if _bits(made) > 4:
                break
    return best


def _scaled_super(x, made):
    """Q3_K, Q6_K, IQ4_XS: (d s) level(q), s a signed integer."""
    n = len(x)
    grouped = x.reshape(-1, made.group)
    scales = _best_scale(grouped, made).reshape(n, -1)
    low = float(made.scale_offset)
    at = np.abs(scales).argmax(1)
    extreme = scales[np.arange(n), at]
    d = _half(-extreme / low)
    s = np.rint(_over(scales, d.astype(np.float32)[:, None]))
    s = np.clip(s, -low, low - 1)
    whole = (d.astype(np.float32)[:, None] * s).reshape(-1, 1)
    codes = _codes(_over(grouped, np.broadcast_to(whole, grouped.shape)), made)
    return {"d": d, "s": (s + low).astype(np.uint8), "codes": codes.reshape(n, -1)}


def _line(x, q):
    """(scale, minimum) of least squares of x [n, g] on integers q."""
    size = x.shape[1]
    sq, sx = q.sum(1), x.sum(1)
    sqq, sxq = (q * q).sum(1), (x * q).sum(1)
    spread = size * sqq - sq * sq
    scale = np.where(spread > 0, (size * sxq - sx * sq) / np.where(spread > 0, spread, 1), 0)
    return scale, (sx - scale * sq) / size


def _best_line(x, top, below):
    """(scale, minimum) f32[n] of x [n, g] for codes from 0 to top; below: minima up to 0 only."""
    x64 = x.astype(np.float64)
    low, high = x64.min(1), x64.max(1)
    if below:
        low, high = np.minimum(low, 0), np.maximum(high, 0)
    best = [np.zeros(len(x)), low.copy()]
    least = np.full(len(x), np.inf)
    for cut in TRIED:
        scale = (high - low) / (top + cut)
        bottom = low  # which stays, while the high end may be clipped
        for _ in range(2):
            scale = np.maximum(scale, 0)
            u = _over(x64 - bottom[:, None], np.broadcast_to(scale[:, None], x.shape))
            q = np.clip(np.rint(u), 0, top)
            error = ((bottom[:, None] + scale[:, None] * q - x64) ** 2).sum(1)
            better = error < least
            least = np.where(better, error, least)
            best = [np.where(better, new, old) for new, old in zip((scale, bottom), best, strict=1)]
            scale, bottom = _line(x64, q)
            if below:
                over = bottom > 0
                qq = np.maximum((q * q).sum(1), 1)
                scale = np.where(over, (x64 * q).sum(1) / qq, scale)
                bottom = np.where(over, 0, bottom)
    return best[0].astype(np.float32), best[1].astype(np.float32)


def _affine(x, made):
    """Q4_1, Q5_1: d q + m."""
    top = _top(made)
    d, m = (_half(part) for part in _best_line(x, top, False))
    u = _over(x - m.astype(np.float32)[:, None], d.astype(np.float32)[:, None])
    return {"d": d, "m": m, "codes": np.clip(np.rint(u), 0, top).astype(np.uint8)}


def _affine_super(x, made):
    """Q2_K, Q4_K, Q5_K: (d s) q - (dmin m)."""
    n, top = len(x), _top(made)
    most = 15 if made.group == 16 else 63  # of s and m: Q2_K has 4 bits for them, others 6
    grouped = x.reshape(-1, made.group)
    scale, bottom = (part.reshape(n, -1) for part in _best_line(grouped, top, True))
    parts = {}
    for name, integer, wanted in (("d", "s", scale), ("dmin", "m", -bottom)):
        parts[name] = _half(wanted.max(1) / most)
        unit = parts[name].astype(np.float32)[:, None]
        parts[integer] = np.clip(np.rint(_over(wanted, unit)), 0, most).astype(np.uint8)
    s = parts["d"].astype(np.float32)[:, None] * parts["s"]
    m = parts["dmin"].astype(np.float32)[:, None] * parts["m"]
    s, m = s.reshape(-1, 1), m.reshape(-1, 1)
    u = _over(grouped + m, np.broadcast_to(s, grouped.shape))
    parts["codes"] = np.clip(np.rint(u), 0, top).astype(np.uint8).reshape(n, -1)
    return parts


def _shared_exponent(x, made):
    """MXFP4: the exponent of OCP Microscaling 1.0, section 6.3, or the next, if that is better."""
    _, exponent = np.frexp(np.abs(x).max(1))
    base = np.where(x.any(1), exponent - 3, -127)  # floor(log2 max) - 2, 2 being that of 4.0
    levels, best, least = _levels(made), None, None
    for more in (0, 1):
        e = np.clip(base + more, -126, 127).astype(np.int32)
        scale = np.ldexp(np.float32(1), e)[:, None]
        codes = _codes(x / scale, made)
        error = ((levels[codes] * scale - x) ** 2).sum(1)
        if best is None:
            best, least = [e, codes], error
        else:
            better = error < least
            best = [np.where(better, e, best[0]), np.where(better[:, None], codes, best[1])]
    return {"e": (best[0] + 127).astype(np.uint8), "codes": best[1].astype(np.uint8)}


def _shared_e4m3(x, made):
    """NVFP4 without a global scale: the nearest e4m3 to the scale of least squares."""
    grouped = x.reshape(-1, made.group)
    grid = unsigned_e4m3()[:127]  # ascending
    wanted = np.abs(_best_scale(grouped, made))
    if not (wanted <= grid[-1]).all() or np.abs(x).max(initial=0) > MAGNITUDES[-1] * grid[-1]:
        raise UnsupportedInput(
            f"expected weights up to {MAGNITUDES[-1] * grid[-1]:.0f} for NVFP4, got "
            f"{np.abs(x).max():.3g}; scale them, or choose MXFP4"
        )
    n = np.searchsorted((grid[1:] + grid[:-1]) / 2, wanted)
    scale = np.broadcast_to(grid[n][:, None], grouped.shape)
    codes = _codes(_over(grouped, scale), made)
    return {"n": n.astype(np.uint8).reshape(len(x), -1), "codes": codes.reshape(len(x), -1)}
