"""Image codecs against Pillow's JPEG: BD-rate on real file bytes, PSNR by quality, and time.

    python benchmarks/codecs.py [--data DIR] [--out FILE.json]

DIR holds kodak/*.png and rd/pillow_kodak_odd.json (bits per pixel and RGB PSNR of Pillow's JPEG
4:2:0 optimised, WebP, JPEG 2000 and AVIF). BD-rates are means over photos of each photo's; "low"
and "high" are the halves of the shared range of PSNR.
"""

import argparse
import contextlib
import datetime
import io
import json
import platform
import statistics
import time
import unittest.mock
from pathlib import Path

import jax
import numpy as np
import PIL
from PIL import Image

import jaxcomp
from jaxcomp.codecs.files import load, save
from jaxcomp.measures import bd_rate_percent

QUALITIES = (5, 10, 25, 40, 60, 80, 95)
CODECS = ("learned", "dct")
REPORTED = (10, 25, 40, 60, 80, 95)
SHARED = Path(__file__).parents[1] / "../shared/data"


def psnr_db(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(np.float64) - b) ** 2)))


def halves(anchor: np.ndarray, curve: np.ndarray) -> list[float]:
    """BD-rate in percent: whole shared range of PSNR, its lower half, its upper half."""
    low = max(anchor[:, 1].min(), curve[:, 1].min())
    high = min(anchor[:, 1].max(), curve[:, 1].max())
    middle = (low + high) / 2
    parts = [bd_rate_percent(*anchor.T, *curve.T)]
    for start, end in ((low, middle), (middle, high)):
        parts.append(bd_rate_percent(*_cut(anchor, start, end), *_cut(curve, start, end)))
    return parts


def _cut(curve, start, end):
    """The curve between two values of PSNR, resampled from its own interpolant."""
    from scipy.interpolate import PchipInterpolator

    curve = curve[np.argsort(curve[:, 1])]
    quality = np.linspace(start, end, 64)
    return 2.0 ** PchipInterpolator(curve[:, 1], np.log2(curve[:, 0]))(quality), quality


def measure(codec, image: np.ndarray) -> list[dict]:
    rows = []
    for quality in QUALITIES:
        started = time.perf_counter()
        data = save(codec, image, quality=quality)
        encoded = time.perf_counter()
        decoded = load(data)
        finished = time.perf_counter()
        rows.append(
            {
                "quality": quality,
                "bpp": 8 * len(data) / image[..., 0].size,
                "psnr_db": psnr_db(image, decoded),
                "encode_ms": 1000 * (encoded - started),
                "decode_ms": 1000 * (finished - encoded),
            }
        )
    return rows


def jpeg_psnr(image: np.ndarray, quality: int) -> float:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, optimize=True, subsampling="4:2:0")
    return psnr_db(image, np.asarray(Image.open(file)))


def judge(name: str, images: dict, jpeg: dict) -> dict[str, list[dict]]:
    """The rows of measure for each photo, after a file that compiles."""
    codec = getattr(jaxcomp.codecs, name)()
    load(save(codec, next(iter(images.values())), quality=50))
    print(f"{'photo':14}{name:>8}{'low':>8}{'high':>8}   BD-rate % against JPEG")
    rows = {}
    for photo, image in images.items():
        rows[photo] = measure(codec, image)
        found = halves(jpeg[photo], _points(rows)[photo])
        print(f"{photo:14}{found[0]:8.1f}{found[1]:8.1f}{found[2]:8.1f}", flush=True)
    return rows


def _points(rows: dict) -> dict[str, np.ndarray]:
    """Bits per pixel and PSNR of each photo."""
    return {
        name: np.array([[row["bpp"], row["psnr_db"]] for row in found])
        for name, found in rows.items()
    }


def mean_halves(anchor: dict, found: dict) -> list[float]:
    """Means over photos of halves; found: curves, or the rows of judge."""
    found = found if isinstance(next(iter(found.values())), np.ndarray) else _points(found)
    return np.mean([halves(anchor[name], curve) for name, curve in found.items()], 0).tolist()


def rates_at_equal_psnr(anchor: dict, found: dict) -> dict[int, float | None]:
    """How much larger files are than anchor's of the same PSNR, in percent, by anchor's quality.

    Means over photos; None where no photo's PSNR is one that was found.
    """
    from scipy.interpolate import PchipInterpolator

    excess = []
    for photo, curve in anchor.items():
        order = np.argsort(found[photo][:, 1])
        rate, psnr = found[photo][order].T
        same = np.exp(PchipInterpolator(psnr, np.log(rate), extrapolate=False)(curve[:, 1]))
        excess.append(100 * (same / curve[:, 0] - 1))
    columns = zip(QUALITIES, np.transpose(excess), strict=True)
    return {q: None if np.isnan(x).all() else float(np.nanmean(x)) for q, x in columns}


def entropy_share(image: np.ndarray, quality: int, repeats: int = 7) -> float:
    """Which part of decoding by the learned codec goes into popping symbols; medians."""
    from jaxcomp.codecs import latent_stream

    data = save(jaxcomp.codecs.learned(), image, quality=quality)
    shares, spent, programs = [], [0.0], ("_begin", "_pop")

    def timed(program):
        def run(*arguments):
            jax.block_until_ready(arguments[1:])
            started = time.perf_counter()
            found = jax.block_until_ready(program(*arguments))
            spent[0] += time.perf_counter() - started
            return found

        return run

    with contextlib.ExitStack() as stack:
        for name in programs:
            program = timed(getattr(latent_stream, name))
            stack.enter_context(unittest.mock.patch.object(latent_stream, name, program))
        for _ in range(repeats):
            spent[0], started = 0.0, time.perf_counter()
            load(data)
            shares.append(spent[0] / (time.perf_counter() - started))
    return statistics.median(shares)


def tabulate(name: str, rows: dict, images: dict) -> list[dict]:
    """Means over photos at each quality; medians of times."""
    print(f"\n{name}: quality   bpp    PSNR  JPEG's PSNR  encode ms  decode ms")
    table = []
    for quality in REPORTED:
        chosen = [row for r in rows.values() for row in r if row["quality"] == quality]
        line = {
            "quality": quality,
            "bpp": statistics.mean(row["bpp"] for row in chosen),
            "psnr_db": statistics.mean(row["psnr_db"] for row in chosen),
            "jpeg_psnr_db": statistics.mean(jpeg_psnr(i, quality) for i in images.values()),
            "encode_ms": statistics.median(row["encode_ms"] for row in chosen),
            "decode_ms": statistics.median(row["decode_ms"] for row in chosen),
        }
        table.append(line)
        print("{:15d}{:7.3f}{:8.2f}{:11.2f}{:12.0f}{:11.0f}".format(*line.values()), flush=True)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=SHARED if SHARED.exists() else None)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("--data: expected the folder that holds kodak/ and rd/")
    peers = json.loads((arguments.data / "rd/pillow_kodak_odd.json").read_text())
    images = {
        name: np.asarray(Image.open(arguments.data / "kodak" / name).convert("RGB"))
        for name in sorted(peers)
    }
    jpeg = {name: np.array(peers[name]["jpeg"]) for name in images}
    curves = {name: judge(name, images, jpeg) for name in CODECS}
    rates = {name: mean_halves(jpeg, found) for name, found in curves.items()}
    for peer in ("webp", "jpeg2000", "avif"):
        rates[peer] = mean_halves(jpeg, {name: np.array(peers[name][peer]) for name in images})
    print("\nBD-rate % against JPEG 4:2:0 optimised, mean over photos (all, low, high)")
    for name, value in rates.items():
        print(f"{name:14}" + "".join(f"{v:8.1f}" for v in value))
    against = mean_halves(*(_points(curves[name]) for name in ("dct", "learned")))
    print("learned / dct " + "".join(f"{v:8.1f}" for v in against))
    equal = rates_at_equal_psnr(*(_points(curves[name]) for name in ("dct", "learned")))
    shown = (f"{q}: {v:.1f}" for q, v in equal.items() if v is not None)
    print("learned / dct at equal PSNR, by quality of dct:", *shown, sep="  ")
    tables = {name: tabulate(name, found, images) for name, found in curves.items()}
    photo = next(iter(images.values()))
    shares = {quality: entropy_share(photo, quality) for quality in REPORTED}
    print("\nentropy coding in decoding (learned), % of time by quality:")
    print(*(f"{quality}: {100 * share:.0f}" for quality, share in shares.items()), sep="  ")
    if arguments.out:
        result = {
            "method": "file bytes of jaxcomp.codecs.save; RGB PSNR over all pixels; BD-rate by "
            "PCHIP over the shared range of PSNR, per photo, then averaged",
            "date": datetime.date.today().isoformat(),
            "device": f"{platform.machine()} CPU, {jax.devices()[0].platform} backend",
            "versions": {
                "jaxcomp": jaxcomp.__version__,
                "jax": jax.__version__,
                "numpy": np.__version__,
                "pillow": PIL.__version__,
                "python": platform.python_version(),
            },
            "bd_rate_percent (all, low, high)": rates,
            "bd_rate_percent of learned against dct (all, low, high)": against,
            "rate of learned against dct at equal PSNR, percent by quality of dct": equal,
            "entropy coding in decoding (learned), share of time by quality": shares,
            "tables": tables,
            "curves": curves,
        }
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
