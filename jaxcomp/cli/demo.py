"""jaxcomp demo: the bundled photo by both codecs at three qualities, checked and beside JPEG."""

import argparse
import time
from importlib import resources
from typing import Any

import numpy as np

from jaxcomp.base import CorruptStream
from jaxcomp.cli import common

QUALITIES = (10, 40, 80)
CODECS = ("learned", "dct")
PHOTO = "chelsea.png"  # source and licence stand beside it
GAP, LABEL = 8, 22  # pixels around and above each picture

EPILOG = """\
Each file is decoded again and compared, sample by sample, with what the encoder promised
(codec.apply). JPEG stands beside it at the largest quality that is not larger in bytes; in the
picture, than the learned codec's.
The photo is Chelsea the cat, by Stefan van der Walt, CC0.
"""


def add(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.description = "Compress the bundled photo by both codecs, verify and compare."
    parser.epilog = EPILOG
    parser.add_argument(
        "output",
        metavar="OUT.png",
        nargs="?",
        default="jaxcomp-demo.png",
        help="the side-by-side picture to write (default %(default)s)",
    )
    common.add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Compress, verify, compare, draw."""
    from jaxcomp.codecs.files import find, load, save
    from jaxcomp.io import peers
    from jaxcomp.io.photo import check_suffix, image_bytes, read_photo
    from jaxcomp.measures import ms_ssim, psnr_db

    start = time.perf_counter()
    suffix = "." + arguments.output.rpartition(".")[2]
    check_suffix(".png" if arguments.output == common.PIPE else suffix)
    common.check_output(arguments.output)
    stored = resources.files("jaxcomp.cli").joinpath("demo_photo", PHOTO).read_bytes()
    image = read_photo(stored, max_pixels=1 << 20).pixels
    common.start_jax()
    jpeg = peers.available()[0]
    rows, pictures = [], []
    runs = [(name, quality) for name in CODECS for quality in QUALITIES]
    with common.progress(len(runs), "compressing") as advance:
        for name, quality in runs:
            codec = find(name)
            params = codec.init()
            clock = [time.perf_counter()]
            data = save(codec, image, quality=quality)
            clock.append(time.perf_counter())
            decoded = load(data)
            clock.append(time.perf_counter())
            promised = np.asarray(codec.apply(params, image, quality=quality)[0])
            if not np.array_equal(decoded, promised):
                raise CorruptStream(
                    f"expected the image of {name} at quality {quality} to equal codec.apply's bit "
                    f"for bit, got {np.count_nonzero(decoded != promised)} samples that differ; "
                    "please report it with the output of 'pip list'"
                )
            setting, theirs = _largest_within(jpeg, image, len(data))
            other = peers.decode(theirs, channels=image.shape[2])
            rows.append(
                {
                    "codec": name,
                    "quality": quality,
                    "bytes": len(data),
                    "bpp": 8 * len(data) / (image.shape[0] * image.shape[1]),
                    "psnr_db": float(psnr_db(image, decoded)),
                    "ms_ssim": float(ms_ssim(image, decoded)),
                    "encode_ms": round(1000 * (clock[1] - clock[0]), 1),
                    "decode_ms": round(1000 * (clock[2] - clock[1]), 1),
                    "decoded_exactly": True,
                    "jpeg_quality": setting,
                    "jpeg_bytes": len(theirs),
                    "jpeg_psnr_db": float(psnr_db(image, other)),
                }
            )
            pictures.append((decoded, other))
            advance(f"{name}, quality {quality}")
    sheet = _sheet(image, len(stored), rows, pictures)
    if arguments.output == common.PIPE:
        common.write(common.PIPE, image_bytes(sheet, ".png"))
    else:
        common.write(arguments.output, image_bytes(sheet, suffix))
    record = {
        "photo": PHOTO,
        "width": image.shape[1],
        "height": image.shape[0],
        "rows": rows,
        "picture": common.shown(arguments.output),
        "seconds": round(time.perf_counter() - start, 2),
    }
    common.report(_text(record), record, arguments, arguments.output)
    return 0


def _largest_within(jpeg: Any, image: np.ndarray, budget: int) -> tuple[int, bytes]:
    """JPEG's best file of at most `budget` bytes, or its smallest one."""
    low, high = jpeg.lowest, jpeg.highest + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if len(jpeg.encode(image, middle)) <= budget else (low, middle)
    return low, jpeg.encode(image, low)


def _text(record: dict[str, Any]) -> str:
    heads = ["codec", "quality", "bytes", "bpp", "PSNR dB", "MS-SSIM", "encode ms", "decode ms"]
    heads += ["decoded", "JPEG bytes", "JPEG PSNR dB"]
    rows = [
        [
            *(row["codec"], str(row["quality"]), str(row["bytes"]), f"{row['bpp']:.3f}"),
            *(f"{row['psnr_db']:.2f}", f"{row['ms_ssim']:.4f}"),
            *(f"{row['encode_ms']:.0f}", f"{row['decode_ms']:.0f}", "exactly"),
            *(str(row["jpeg_bytes"]), f"{row['jpeg_psnr_db']:.2f}"),
        ]
        for row in record["rows"]
    ]
    return (
        f"{record['photo']}, {record['width']} x {record['height']} "
        "(times of a codec's first quality include compilation)\n"
        f"{common.table(heads, rows)}\n"
        f"picture: {record['picture']}, {record['seconds']:.1f} s in all"
    )


def _sheet(
    image: np.ndarray,
    nbytes: int,
    rows: list[dict[str, Any]],
    pictures: list[tuple[np.ndarray, np.ndarray]],
) -> np.ndarray:
    """The original to the left, then each quality: a line per codec, JPEG in as many bytes last."""
    from PIL import Image, ImageDraw, ImageFont

    height, width = image.shape[:2]
    across, down = width + GAP, height + LABEL + GAP
    size = across * (1 + len(QUALITIES)) + GAP, down * (1 + len(CODECS)) + GAP
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)

    def place(column: int, line: int, label: str, pixels: np.ndarray) -> None:
        left, top = GAP + column * across, GAP + line * down
        draw.text((left, top), label, fill="black", font=font)
        sheet.paste(Image.fromarray(pixels), (left, top + LABEL))

    place(0, 0, f"original, PNG: {nbytes} bytes", image)
    for i, (row, (ours, theirs)) in enumerate(zip(rows, pictures, strict=True)):
        line, column = divmod(i, len(QUALITIES))
        ours_text = f"{row['codec']}, quality {row['quality']}: {row['bytes']} bytes, "
        place(1 + column, line, ours_text + f"{row['psnr_db']:.1f} dB", ours)
        if line == 0:
            jpeg_text = f"JPEG, quality {row['jpeg_quality']}: {row['jpeg_bytes']} bytes, "
            place(1 + column, len(CODECS), jpeg_text + f"{row['jpeg_psnr_db']:.1f} dB", theirs)
    return np.asarray(sheet)
