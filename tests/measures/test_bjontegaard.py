"""Bjontegaard deltas: published savings, exact identities, and an integral done another way."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.interpolate import PchipInterpolator

from jaxcomp.base import UnsupportedInput
from jaxcomp.measures import bd_psnr_db, bd_rate_percent

_CURVES = json.loads((Path(__file__).parent / "data" / "kodak_rd.json").read_text())["curves"]
METHODS = ["pchip", "cubic"]


def _curve(name: str) -> tuple[np.ndarray, np.ndarray]:
    return np.array(_CURVES[name]["bpp"]), np.array(_CURVES[name]["psnr_db"])


OURS = "minnen-2018-neurips-opt-mse"
ANCHORS = sorted(_CURVES.keys() - {OURS})


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("anchor", "published_percent"),
    [
        ("jpeg420", -59.8),
        ("j2k-opj5", -35.0),
        ("bpg444", -8.4),
        ("balle-2018-iclr-opt-mse", -15.8),
    ],
)
def test_reproduces_the_savings_published_with_the_curves(anchor, published_percent, method):
    # Minnen, Balle, Toderici, NeurIPS 2018, abstract; it names neither interpolant nor range.
    percent = bd_rate_percent(*_curve(anchor), *_curve(OURS), method=method)
    assert percent == pytest.approx(published_percent, abs=1.0)


def _interpolant(x, y, method):
    return PchipInterpolator(x, y) if method == "pchip" else np.poly1d(np.polyfit(x, y, 3))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("anchor", ANCHORS)
def test_equals_a_fine_trapezoid_sum_over_the_shared_range(anchor, method):
    (rate_a, psnr_a), (rate_b, psnr_b) = _curve(anchor), _curve(OURS)

    def mean_gap(xa, ya, xb, yb):
        x = np.linspace(max(xa[0], xb[0]), min(xa[-1], xb[-1]), 200_001)
        gap = _interpolant(xb, yb, method)(x) - _interpolant(xa, ya, method)(x)
        return np.trapezoid(gap, x) / (x[-1] - x[0])

    log_a, log_b = np.log10(rate_a), np.log10(rate_b)
    percent = 100 * (10 ** mean_gap(psnr_a, log_a, psnr_b, log_b) - 1)
    options = dict(method=method)
    found = bd_rate_percent(rate_a, psnr_a, rate_b, psnr_b, **options)
    assert found == pytest.approx(percent, abs=1e-5)
    found = bd_psnr_db(rate_a, psnr_a, rate_b, psnr_b, **options)
    assert found == pytest.approx(mean_gap(log_a, psnr_a, log_b, psnr_b), abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_exact_identities(method):
    rate, psnr = _curve("bpg444")
    assert bd_rate_percent(rate, psnr, rate, psnr, method=method) == 0.0
    assert bd_psnr_db(rate, psnr, rate, psnr, method=method) == 0.0
    # The units of rate cancel, and so does the order of the points.
    cheaper = bd_rate_percent(8000 * rate, psnr, 7200 * rate[::-1], psnr[::-1], method=method)
    assert cheaper == pytest.approx(-10.0, abs=1e-8)
    assert bd_psnr_db(rate, psnr, rate, psnr + 0.5, method=method) == pytest.approx(0.5, abs=1e-9)
    # Swapping anchor and candidate inverts the ratio.
    forth = bd_rate_percent(rate, psnr, *_curve(OURS), method=method)
    back = bd_rate_percent(*_curve(OURS), rate, psnr, method=method)
    assert (1 + forth / 100) * (1 + back / 100) == pytest.approx(1.0, abs=1e-12)


def test_only_the_shared_range_counts():
    # b costs twice as much below 30 dB, which a never reaches, and half as much above.
    rate_a, psnr_a = [1.0, 2.0, 4.0, 8.0], [30.0, 33.0, 36.0, 39.0]
    rate_b, psnr_b = [0.2, 0.3, 0.5, 1.0, 2.0, 4.0], [20.0, 25.0, 30.0, 33.0, 36.0, 39.0]
    assert bd_rate_percent(rate_a, psnr_a, rate_b, psnr_b) == pytest.approx(-50.0, abs=1.0)


def test_two_points_are_a_line():
    percent = bd_rate_percent([1, 2], [30, 33], [0.5, 1], [30, 33])
    assert percent == pytest.approx(-50.0, abs=1e-9)


@pytest.mark.parametrize(
    ("curve", "message"),
    [
        (([1, 2, 3, 4], [30, 31, 31, 32]), "curve b: quality must grow strictly"),
        (([1, 2, 2, 4], [30, 31, 32, 33]), "curve b: quality must grow strictly"),
        (([0, 1, 2, 3], [30, 31, 32, 33]), "curve b: rates must be positive"),
        (([1, 2, 3, 4], [30, 31, 32, np.inf]), "curve b: .* finite"),
        (([1, 2, 3], [30, 31, 32]), "curve b: cubic takes at least 4"),
        (([1, 2, 3, 4], [30, 31, 32]), "curve b: .* as many qualities"),
        (([1, 2, 3, 4], [50, 51, 52, 53]), "share no quality"),
    ],
)
def test_curves_without_a_delta_are_refused(curve, message):
    good = ([1, 2, 3, 4], [30, 31, 32, 33])
    with pytest.raises(UnsupportedInput, match=message):
        bd_rate_percent(*good, *curve, method="cubic")


def test_disjoint_rates_and_unknown_methods_are_refused():
    with pytest.raises(UnsupportedInput, match="share no log10 rate"):
        bd_psnr_db([1, 2], [30, 33], [4, 8], [30, 33])
    with pytest.raises(UnsupportedInput, match='method is "pchip" or "cubic"'):
        bd_rate_percent([1, 2], [30, 33], [1, 2], [30, 33], method="akima")
