"""Bjontegaard deltas: one number for the gap between two rate-distortion curves.

G. Bjontegaard, "Calculation of average PSNR differences between RD-curves", ITU-T VCEG-M33, 2001.
With f the base-10 logarithm of the rate as a function of quality,

    bd_rate = 10 ** mean(f_b - f_a) - 1      mean over the qualities that both curves reach
    bd_psnr = mean(g_b - g_a)                mean over shared log rates, g: quality over log rate

Only the shared range counts: from the larger of the two minima to the smaller of the two maxima. No
curve is extrapolated, and both integrals are exact (of the interpolant, not of samples of it).

method "pchip" (default) is the monotone cubic through every point that JCT-VC and JVET use, for two
points or more; "cubic" is the paper's: one polynomial of degree three, through four points, by
least squares through more.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.polynomial import Polynomial

from jaxcomp.base import UnsupportedInput

Values = Sequence[float | int] | np.ndarray
Antiderivative = Callable[[float], float]


def bd_rate_percent(
    rates_a: Values, psnr_a: Values, rates_b: Values, psnr_b: Values, *, method: str = "pchip"
) -> float:
    """How many percent more rate b needs than the anchor a for the same quality; negative: b wins.

    rates: bits per pixel, bytes, anything proportional; psnr: dB (or another quality that grows,
    such as -10 log10(1 - MS-SSIM)). One curve per pair, in any order of points.
    Raises UnsupportedInput for a curve that is not strictly increasing once sorted, holds a rate
    that is not positive and finite, has too few points, or shares no quality with the other.
    """
    a, b = _curve(rates_a, psnr_a, method, "a"), _curve(rates_b, psnr_b, method, "b")
    gap = _mean_gap((a[1], a[0]), (b[1], b[0]), method, "quality")
    return float(100 * (10**gap - 1))


def bd_psnr_db(
    rates_a: Values, psnr_a: Values, rates_b: Values, psnr_b: Values, *, method: str = "pchip"
) -> float:
    """How many dB better b is than the anchor a at the same rate; positive: b wins.

    Arguments and errors as in bd_rate_percent; here the shared range is one of rates.
    """
    a, b = _curve(rates_a, psnr_a, method, "a"), _curve(rates_b, psnr_b, method, "b")
    return float(_mean_gap(a, b, method, "log10 rate"))


def _curve(rates: Values, quality: Values, method: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(log10 rates, qualities), sorted by rate, checked."""
    if method not in ("pchip", "cubic"):
        raise UnsupportedInput(f'method is "pchip" or "cubic", got {method!r}')
    rates, quality = np.asarray(rates, np.float64), np.asarray(quality, np.float64)
    points = 2 if method == "pchip" else 4
    if rates.ndim != 1 or rates.shape != quality.shape or rates.size < points:
        raise UnsupportedInput(
            f"curve {name}: {method} takes at least {points} rates and as many qualities, got "
            f"shapes {rates.shape} and {quality.shape}"
        )
    if not (np.isfinite(rates).all() and np.isfinite(quality).all() and (rates > 0).all()):
        raise UnsupportedInput(
            f"curve {name}: rates must be positive and all values finite, got rates {rates} and "
            f"qualities {quality}; leave out lossless points"
        )
    order = np.argsort(rates, kind="stable")
    rates, quality = rates[order], quality[order]
    if (np.diff(rates) <= 0).any() or (np.diff(quality) <= 0).any():
        raise UnsupportedInput(
            f"curve {name}: quality must grow strictly with rate, got rates {rates} and qualities "
            f"{quality}; leave out the points that others dominate"
        )
    return np.log10(rates), quality


def _mean_gap(
    a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray], method: str, axis: str
) -> float:
    """Mean of y_b(x) - y_a(x) over the shared range of x; each curve is (x, y)."""
    low, high = max(a[0][0], b[0][0]), min(a[0][-1], b[0][-1])
    if low >= high:
        raise UnsupportedInput(
            f"the curves share no {axis}: a spans {a[0][0]:.4g} to {a[0][-1]:.4g}, b "
            f"{b[0][0]:.4g} to {b[0][-1]:.4g}; measure points in one range"
        )
    integral_a, integral_b = (_integral(*curve, method) for curve in (a, b))
    area = integral_b(high) - integral_b(low) - (integral_a(high) - integral_a(low))
    return area / (high - low)


def _integral(x: np.ndarray, y: np.ndarray, method: str) -> Antiderivative:
    """The exact antiderivative of the interpolant."""
    if method == "cubic":
        return Polynomial.fit(x, y, 3).integ()
    from scipy.interpolate import PchipInterpolator  # here: 0.2 s that most commands never need

    return PchipInterpolator(x, y).antiderivative()
