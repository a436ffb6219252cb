"""jaxcomp compress: photos, and models without loss (compress_model.py), to .jxc files."""

import argparse
import json
import os
import sys
import time
from typing import Any

from jaxcomp.base import JaxcompError, UnsupportedInput
from jaxcomp.cli import common, compress_lossy

# A folder is searched for these; a file named on the command line may have any suffix.
PHOTO_SUFFIXES = {
    *(".png", ".jpg", ".jpeg", ".jfif", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".pgm"),
    *(".avif", ".jp2"),
}
REFUSED = 2
CODEC = "learned"

EPILOG = """\
examples:
  jaxcomp compress photo.jpg photo.jxc                 quality 50
  jaxcomp compress photo.jpg photo.jxc --quality 80    1 smallest .. 100 best, much like JPEG's
  jaxcomp compress photo.jpg photo.jxc --bpp 0.5       a file of about 0.5 bit per pixel
  jaxcomp compress holiday/ --out small/               every photo of a folder, as small/*.jxc
  cat photo.png | jaxcomp compress - - > photo.jxc     through a pipe

  jaxcomp compress model.safetensors model.jxc         without loss, byte for byte; also .npy, .npz
  jaxcomp compress checkpoint/ model.jxc               a folder of Hugging Face: all of its files
  jaxcomp compress run/checkpoints/300 step.jxc        a step of Orbax: its arrays, by path
  jaxcomp compress new.safetensors new.jxc --base old.jxc    what changed since, where smaller

  jaxcomp compress fields.npy small.jxc --error-bound 1e-3                   of max - min
  jaxcomp compress model.safetensors small.jxc --error-bound 1e-2 --bound-kind relative
  jaxcomp compress model.safetensors small.jxc --target-ratio 8              the bound is found
  jaxcomp compress model.safetensors int4.jxc --format int4-g128 --method hqq

Photos: the EXIF orientation is applied and the ICC profile kept; other metadata is dropped.
Transparency is refused unless --background says what to blend it with.
Models: every byte comes back, and is checked by its SHA-256. Arrays are coded in chunks by all
cores, in the memory of a few chunks whatever the size; 'jaxcomp extract' takes out one of them.
"""


def add(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    from jaxcomp.codecs.header import CODECS, TRAINABLE

    parser.description = (
        "Compress a photo (PNG, JPEG, WebP, TIFF, ...), a folder of photos, or a model without "
        "loss: a .safetensors, .npy or .npz file, or a folder with such files."
    )
    parser.epilog = EPILOG
    parser.add_argument("photo", metavar="IN", help="a photo, a model, a folder, or - for a photo")
    parser.add_argument("output", metavar="OUT.jxc", nargs="?", help="the file to write, or -")
    parser.add_argument("--out", metavar="DIR", help="the folder to write to (created if needed)")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quality", type=common.quality, metavar="Q", help="1..100 (default 50)")
    size.add_argument(
        "--bpp", type=common.positive_float, metavar="R", help="aim at R bits per pixel instead"
    )
    parser.add_argument(
        "--codec",
        choices=sorted(set(CODECS) - set(TRAINABLE)),
        help=f"default {CODEC}",
    )
    common.add_weights(parser)
    parser.add_argument(
        "--refine",
        type=common.positive_int,
        metavar="N",
        help="iterations that a learned codec spends on a smaller file: 10 save about 2 %%",
    )
    parser.add_argument(
        "--background", metavar="COLOUR", help="blend transparency with white, #ff8800, ..."
    )
    common.add_max_pixels(parser)
    common.add_base(parser, "models: an earlier .jxc file, needed again to decompress this one")
    compress_lossy.add(parser)
    common.add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """One photo, or a folder of them, or a model."""
    from jaxcomp.cli import compress_model

    if compress_model.is_model(arguments):
        if compress_lossy.is_lossy(arguments):
            common.refuse_options(arguments, compress_model.PHOTO_OPTIONS, "photos")
            return compress_lossy.run(arguments)
        return compress_model.run(arguments)
    names = ["base", "threads", *compress_lossy.OPTIONS]
    common.refuse_options(arguments, names, "models (.safetensors, .npy, .npz)")
    arguments.codec = arguments.codec or CODEC
    if (arguments.output is None) == (arguments.out is None):
        raise UnsupportedInput("expected one of OUT.jxc and --out DIR; see jaxcomp compress --help")
    if arguments.photo != common.PIPE and os.path.isdir(arguments.photo):
        return _folder(arguments)
    output = arguments.output
    if output is None:
        if arguments.photo == common.PIPE:
            raise UnsupportedInput("expected OUT.jxc for a photo from standard input, got --out")
        os.makedirs(arguments.out, exist_ok=True)
        output = os.path.join(arguments.out, _names([os.path.basename(arguments.photo)])[0])
    record = _one(arguments.photo, output, arguments, alone=True)
    common.report(_line(record), record, arguments, output)
    return 0


def _one(
    source: str, output: str, arguments: argparse.Namespace, *, alone: bool = False
) -> dict[str, Any]:
    """Compress one photo, alone or one of many; the record says what came of it."""
    from jaxcomp.io.photo import read_photo

    start = time.perf_counter()
    common.check_output(output, inputs=[source])
    with common.naming(source):
        piped = source == common.PIPE
        photo = read_photo(
            common.binary_stdin().read() if piped else source,
            max_pixels=arguments.max_pixels,
            background=arguments.background,
        )
        for text in photo.notes:
            common.note(source, text)
        from jaxcomp.codecs.files import find, save

        pixels = photo.pixels.shape[0] * photo.pixels.shape[1]
        flags = common.flags_of_one(arguments.codec, pixels) if alone else common.COMPILE_FAST
        common.start_jax(flags=flags)
        options = {}
        codec = find(arguments.codec)
        if arguments.weights is not None:
            codec, options["params"] = common.read_weights(arguments.weights)
        if arguments.quality is not None:
            options["quality"] = arguments.quality
        if arguments.bpp is not None:
            options["bpp"] = arguments.bpp
        if arguments.refine is not None:
            if codec.name == "dct":
                raise UnsupportedInput(
                    "--refine is for learned codecs; codec dct has nothing to refine"
                )
            options["refine"] = arguments.refine
        data = save(codec, photo.pixels, icc=photo.icc, **options)
    common.write(output, data)
    height, width = photo.pixels.shape[:2]
    return {
        "input": common.shown(source),
        "output": common.shown(output),
        "bytes": len(data),
        "bpp": 8 * len(data) / (height * width),
        "width": width,
        "height": height,
        "channels": photo.pixels.shape[2],
        "seconds": round(time.perf_counter() - start, 3),
    }


def _line(record: dict[str, Any]) -> str:
    return (
        f"{record['input']} -> {record['output']}: {record['width']} x {record['height']}, "
        f"{record['bytes']} bytes, {record['bpp']:.3f} bpp"
    )


def _names(photos: list[str]) -> list[str]:
    """x.jpg -> x.jxc; where x.png exists too, x.jpg.jxc and x.png.jxc. No two are the same file."""
    stems = [os.path.splitext(name)[0] for name in photos]
    folded = [stem.casefold() for stem in stems]
    names = [
        f"{name if folded.count(fold) > 1 else stem}.jxc"
        for name, stem, fold in zip(photos, stems, folded, strict=True)
    ]
    if len({name.casefold() for name in names}) < len(names):  # a.jpg, a.png and a.jpg.png
        return [f"{name}.jxc" for name in photos]
    return names


def _folder(arguments: argparse.Namespace) -> int:
    """Every photo of a folder; a bad one is reported and the others go on."""
    photos = sorted(
        name
        for name in os.listdir(arguments.photo)
        if os.path.splitext(name)[1].lower() in PHOTO_SUFFIXES
    )
    if not photos:
        raise UnsupportedInput(
            f"{common.shown(arguments.photo)}: expected photos ({', '.join(sorted(PHOTO_SUFFIXES))}"
            "), found none"
        )
    os.makedirs(arguments.out, exist_ok=True)
    done, failed = [], []
    start = time.perf_counter()
    with common.progress(len(photos), "compressing") as advance:
        for name, output in zip(photos, _names(photos), strict=True):
            source = os.path.join(arguments.photo, name)
            try:
                record = _one(source, os.path.join(arguments.out, output), arguments)
                done.append(record)
                if not arguments.json:
                    print(_line(record))
            except (JaxcompError, OSError) as error:
                text = str(error) if isinstance(error, JaxcompError) else f"{source}: {error}"
                text = common.shown(" ".join(text.split()))
                failed.append({"input": common.shown(source), "error": text})
                print(f"jaxcomp: error: {text}", file=sys.stderr)
            advance(common.shown(name))
    seconds = time.perf_counter() - start
    total = sum(record["bytes"] for record in done)
    pixels = sum(record["width"] * record["height"] for record in done)
    if arguments.json:
        print(json.dumps({"done": done, "failed": failed, "bytes": total}))
    else:
        print(
            f"{len(done)} of {len(photos)} photos, {total} bytes, "
            f"{8 * total / max(pixels, 1):.3f} bpp, {seconds:.1f} s"
            + (f"; {len(failed)} failed, see above" if failed else "")
        )
    return REFUSED if failed else 0
