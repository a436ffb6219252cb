"""jaxcomp eval: our files beside JPEG, WebP, JPEG 2000 and AVIF of the same photos."""

import argparse
import json
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxcomp.base import UnsupportedInput
from jaxcomp.cli import common

OURS = "jaxcomp"
ANCHOR = "JPEG"
CURVE = (10, 25, 40, 60, 80, 95)  # the qualities that our rate-distortion curve is drawn through

EPILOG = """\
examples:
  jaxcomp eval photo.png                               at quality 50
  jaxcomp eval a.png b.png --quality 30 --json
  jaxcomp eval photo.png --plot curve.png              needs matplotlib

Every other format gets the lowest setting whose PSNR is not below ours, so the bytes compare at
matched quality. BD-rate is the mean difference in bytes to JPEG over the PSNR range that both
reach: -40 % means the same picture in 40 % fewer bytes. PSNR and MS-SSIM are over RGB, and bytes
are whole files. Use photos that were never compressed: a JPEG has its own errors to measure.
"""


class Point(NamedTuple):
    """One file: the setting that made it, its size, and how close it is."""

    setting: int
    nbytes: int
    psnr_db: float


class Curve:
    """One format on one photo: a point per setting, each measured once."""

    def __init__(self, image: np.ndarray, make: Callable[[int], tuple[int, np.ndarray]]):
        self.image = image
        self.make = make
        self.points: dict[int, Point] = {}

    def at(self, setting: int) -> Point:
        """The file at one setting."""
        from jaxcomp.measures import psnr_db

        if setting not in self.points:
            nbytes, decoded = self.make(setting)
            self.points[setting] = Point(setting, nbytes, float(psnr_db(self.image, decoded)))
        return self.points[setting]

    def reaching(self, psnr: float, lowest: int, highest: int) -> Point | None:
        """The file at the lowest setting whose PSNR is not below psnr, by bisection."""
        known = sorted(self.points)
        low = max((s for s in known if self.at(s).psnr_db < psnr), default=lowest - 1)
        high = min((s for s in known if s > low and self.at(s).psnr_db >= psnr), default=highest)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.at(middle).psnr_db >= psnr else (middle, high)
        return self.at(high) if self.at(high).psnr_db >= psnr else None

    def sorted(self) -> list[Point]:
        """All points measured, by setting, where size and quality both grow."""
        kept: list[Point] = []
        for setting in sorted(self.points):
            point = self.points[setting]
            if not kept or (point.nbytes > kept[-1].nbytes and point.psnr_db > kept[-1].psnr_db):
                kept.append(point)
        return [point for point in kept if np.isfinite(point.psnr_db)]


def add(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    from jaxcomp.codecs.header import CODECS, TRAINABLE

    parser.description = "Compare with JPEG, WebP, JPEG 2000 and AVIF on your own photos."
    parser.epilog = EPILOG
    parser.add_argument("photos", metavar="PHOTO", nargs="+", help="photos, best never compressed")
    parser.add_argument(
        "--quality",
        type=common.quality,
        default=50,
        metavar="Q",
        help="1..100, where the table compares (default %(default)s)",
    )
    parser.add_argument(
        "--codec",
        choices=sorted(set(CODECS) - set(TRAINABLE)),
        default="learned",
        help="default %(default)s",
    )
    parser.add_argument(
        "--background", metavar="COLOUR", help="blend transparency with white, #ff8800, ..."
    )
    parser.add_argument("--plot", metavar="PNG", help="draw the rate-distortion curves")
    common.add_max_pixels(parser)
    common.add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure every photo, print a table for each and the mean at the end."""
    from jaxcomp.io.photo import read_photo

    if arguments.plot:
        _pyplot()  # before minutes of work, not after
        common.check_output(arguments.plot, inputs=arguments.photos)
    records, curves_of = [], []
    with common.progress(len(arguments.photos), "evaluating") as advance:
        for path in arguments.photos:
            with common.naming(path):
                photo = read_photo(
                    common.binary_stdin().read() if path == common.PIPE else path,
                    max_pixels=arguments.max_pixels,
                    background=arguments.background,
                )
                for text in photo.notes:
                    common.note(path, text)
                curves = measure(photo.pixels, arguments.codec)
                rows = compare(photo.pixels, curves, arguments.quality)
            height, width = photo.pixels.shape[:2]
            record = {"photo": common.shown(path), "width": width, "height": height, "rows": rows}
            records.append(record)
            curves_of.append((record["photo"], height * width, curves))
            if not arguments.json:
                print(_table(record) + "\n")
            advance(common.shown(path))
    mean = _mean(records)
    if arguments.json:
        print(json.dumps({"quality": arguments.quality, "photos": records, "mean": mean}))
    elif len(records) > 1:
        cells = ", ".join(f"{name} {value:+.1f} %" for name, value in mean.items())
        print(f"mean BD-rate against {ANCHOR} over {len(records)} photos: {cells}")
    if arguments.plot:
        common.write(arguments.plot, _plot(curves_of))
        if not arguments.json:
            print(f"curves: {common.shown(arguments.plot)}")
    return 0


def measure(image: np.ndarray, codec_name: str) -> dict[str, Curve]:
    """The curve of every format, drawn through a handful of settings."""
    from jaxcomp.codecs.files import find, load, save
    from jaxcomp.io import peers

    common.start_jax()
    codec = find(codec_name)

    def ours(quality: int) -> tuple[int, np.ndarray]:
        data = save(codec, image, quality=quality)
        return len(data), load(data, max_pixels=image.size)

    def theirs(peer: peers.Peer) -> Callable[[int], tuple[int, np.ndarray]]:
        def make(setting: int) -> tuple[int, np.ndarray]:
            data = peer.encode(image, setting)
            return len(data), peers.decode(data, channels=image.shape[2])

        return make

    curves = {OURS: Curve(image, ours)}
    for quality in CURVE:
        curves[OURS].at(quality)
    for peer in peers.available():
        curves[peer.name] = Curve(image, theirs(peer))
        for setting in peer.settings:
            curves[peer.name].at(setting)
    return curves


def compare(image: np.ndarray, curves: dict[str, Curve], quality: int) -> list[dict[str, Any]]:
    """One row per format at the PSNR that ours has at `quality`, with its BD-rate to JPEG."""
    from jaxcomp.io import peers
    from jaxcomp.measures import bd_rate_percent, bpp, ms_ssim
    from jaxcomp.measures.ms_ssim import SMALLEST_SIDE

    drawn = {name: curve.sorted() for name, curve in curves.items()}  # before the search adds some
    rates, psnrs = _columns(drawn[ANCHOR])
    target = curves[OURS].at(quality).psnr_db
    ranges = {peer.name: (peer.lowest, peer.highest) for peer in peers.available()}
    matched = {
        name: curve.at(quality) if name == OURS else curve.reaching(target, *ranges[name])
        for name, curve in curves.items()
    }
    rows = []
    for name, point in matched.items():
        try:
            bd_rate = bd_rate_percent(rates, psnrs, *_columns(drawn[name]))
        except UnsupportedInput:
            bd_rate = None  # the curves share no range: a flat or tiny picture
        row: dict[str, Any] = {"format": name, "bd_rate_percent": bd_rate}
        if point is not None:
            row["setting"] = point.setting
            row["bytes"] = point.nbytes
            row["bpp"] = bpp(point.nbytes, image.shape)
            row["psnr_db"] = point.psnr_db if np.isfinite(point.psnr_db) else None
            if min(image.shape[:2]) >= SMALLEST_SIDE:
                row["ms_ssim"] = float(ms_ssim(image, curves[name].make(point.setting)[1]))
        rows.append(row)
    return rows


def _columns(points: list[Point]) -> tuple[list[int], list[float]]:
    return [point.nbytes for point in points], [point.psnr_db for point in points]


def _table(record: dict[str, Any]) -> str:
    def cell(row: dict[str, Any], key: str, form: str) -> str:
        return "-" if row.get(key) is None else format(row[key], form)

    ours = record["rows"][0].get("bytes")
    rows = [
        [
            row["format"],
            cell(row, "setting", "d"),
            cell(row, "bytes", "d"),
            f"{row['bytes'] / ours:.2f}x" if row.get("bytes") else "-",
            cell(row, "bpp", ".3f"),
            cell(row, "psnr_db", ".2f"),
            cell(row, "ms_ssim", ".4f"),
            cell(row, "bd_rate_percent", "+.1f"),
        ]
        for row in record["rows"]
    ]
    heads = ["format", "setting", "bytes", "ratio", "bpp", "PSNR dB", "MS-SSIM"]
    title = f"{record['photo']}, {record['width']} x {record['height']}, at the PSNR of {OURS}"
    return title + "\n" + common.table([*heads, f"BD-rate % to {ANCHOR}"], rows)


def _mean(records: list[dict[str, Any]]) -> dict[str, float]:
    """The mean BD-rate of each format over the photos that have one."""
    values: dict[str, list[float]] = {}
    for record in records:
        for row in record["rows"]:
            if row["bd_rate_percent"] is not None:
                values.setdefault(row["format"], []).append(row["bd_rate_percent"])
    return {name: float(np.mean(v)) for name, v in values.items()}


def _pyplot() -> Any:
    """matplotlib, drawing to memory."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UnsupportedInput(
            "--plot needs matplotlib, which is not installed; pip install 'jaxcomp[bench]'"
        ) from None
    return Figure


def _plot(curves_of: list[tuple[str, int, dict[str, Curve]]]) -> bytes:
    """One panel per photo: PSNR over bits per pixel."""
    import io
    import math

    columns = min(3, len(curves_of))
    lines = math.ceil(len(curves_of) / columns)
    figure = _pyplot()(figsize=(6 * columns, 4.5 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for panel, (name, pixels, curves) in zip(panels, curves_of, strict=False):
        for label, curve in curves.items():
            points = curve.sorted()
            panel.plot(
                [8 * p.nbytes / pixels for p in points],
                [p.psnr_db for p in points],
                marker="o",
                markersize=3,
                linewidth=2.5 if label == OURS else 1.2,
                label=label,
            )
        panel.set(
            title=os.path.basename(name),
            xlabel="bits per pixel",
            ylabel="RGB PSNR (dB)",
            xscale="log",
        )
        panel.grid(alpha=0.3)
        panel.legend()
    for panel in panels[len(curves_of) :]:
        panel.remove()
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=120)
    return out.getvalue()
