"""Image codecs against Pillow's JPEG: BD-rate on real file bytes, PSNR by quality, and time.

    python benchmarks/codecs.py [--data DIR] [--out FILE.json]

DIR holds kodak/*.png and rd/pillow_kodak_odd.json (bits per pixel and RGB PSNR of Pillow's JPEG
4:2:0 optimised, WebP, JPEG 2000 and AVIF). BD-rates are means over photos of each photo's; "low"
and "high" are the halves of the shared range of PSNR.
"""

import argparse
import datetime
import io
import json
import platform
import statistics
import time
from pathlib import Path

import jax
import numpy as np
import PIL
from PIL import Image

import jaxcomp
from jaxcomp.codecs.files import load, save
from jaxcomp.measures import bd_rate_percent

QUALITIES = (5, 10, 25, 40, 60, 80, 95)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=SHARED if SHARED.exists() else None)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("--data: expected the folder that holds kodak/ and rd/")
    peers = json.loads((arguments.data / "rd/pillow_kodak_odd.json").read_text())
    codec = jaxcomp.codecs.dct()
    images = {
        name: np.asarray(Image.open(arguments.data / "kodak" / name).convert("RGB"))
        for name in sorted(peers)
    }
    save(codec, next(iter(images.values())), quality=50)  # compile
    load(save(codec, next(iter(images.values())), quality=50))
    print(f"{'photo':14}{'dct':>8}{'low':>8}{'high':>8}   BD-rate % against JPEG")
    ours, rows, rates = {}, {}, {}
    for name, image in images.items():
        rows[name] = measure(codec, image)
        curve = np.array([[row["bpp"], row["psnr_db"]] for row in rows[name]])
        ours[name] = halves(np.array(peers[name]["jpeg"]), curve)
        print(f"{name:14}{ours[name][0]:8.1f}{ours[name][1]:8.1f}{ours[name][2]:8.1f}", flush=True)
    rates["dct"] = np.mean(list(ours.values()), axis=0).tolist()
    for peer in ("webp", "jpeg2000", "avif"):
        pairs = [(np.array(p["jpeg"]), np.array(p[peer])) for p in peers.values()]
        rates[peer] = np.mean([halves(*pair) for pair in pairs], axis=0).tolist()
    print("\nBD-rate % against JPEG 4:2:0 optimised, mean over photos (all, low, high)")
    for name, value in rates.items():
        print(f"{name:14}" + "".join(f"{v:8.1f}" for v in value))
    print("\nquality   bpp    PSNR  JPEG's PSNR  encode ms  decode ms   (means; medians of times)")
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
        print("{:7d}{:7.3f}{:8.2f}{:11.2f}{:12.0f}{:11.0f}".format(*line.values()), flush=True)
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
            "photos (all, low, high)": ours,
            "table": table,
            "curves": rows,
        }
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
