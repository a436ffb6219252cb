"""jaxcomp info: what a .jxc file holds; of photos without decoding it and without jax.

Photos, and what jaxcomp.io writes: weights, keys and values of a context, and, in info_tensors.py,
models and other trees of arrays.
"""

import argparse
import json

from jaxcomp.cli import common

EPILOG = """\
examples:
  jaxcomp info photo.jxc
  jaxcomp info photo.jxc --json | jq .bpp
  jaxcomp info model.jxc                       every array, beside its order-0 entropy
  jaxcomp info model.jxc --quick               the same without decoding, for the names

The order-0 entropy of an array is what its bytes would take with one ideal table for each place in
a value (floats: exponent first). It is counted from the arrays, which are decoded for it, in the
memory of a few chunks.

Photos: every checksum is verified, so 'info' is also a quick test of a file. It does not decode:
damage that was given fitting checksums shows only in 'decompress'.
"""

TREE = "tree"  # what jaxcomp.io.save_weights writes; naming it here loads nothing of it
FEATURES = "cachegen"  # and save_features


def add(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.description = "Print what a .jxc file holds, after checking its structure and checksums."
    parser.epilog = EPILOG
    parser.add_argument("input", metavar="IN.jxc", help="the file to read, or -")
    parser.add_argument(
        "--quick", action="store_true", help="models: the index alone, without order-0 entropies"
    )
    common.add_max_pixels(parser)
    common.add_base(parser, "models: the file that this one is a delta against")
    common.add_max_bytes(parser)
    common.add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Read, judge, print."""
    with common.judged(arguments.input) as (version, source):
        if version != 2:
            names = ["base", "max_bytes", "threads", "quick"]
            common.refuse_options(arguments, names, "files of many arrays")
            return _one(arguments, source)
        from jaxcomp.cli import info_tensors

        return info_tensors.run(arguments, source)


def _one(arguments, source) -> int:
    """Of one signal or tree of weights."""
    from jaxcomp.codecs.header import ICC_SECTION, decoder_macs, icc_profile, image_shape
    from jaxcomp.coding.container import pack, read

    with common.naming(arguments.input):
        container = read(source)
        if container.codec == TREE:
            return _print_tree(arguments, container)
        if container.codec == FEATURES:
            return _print_features(arguments, container)
        height, width, *rest = image_shape(container, max_pixels=arguments.max_pixels)
        icc = icc_profile(container)
        macs = decoder_macs(container)
    sizes = {name: len(data) for name, data in container.sections.items()}
    total = len(pack(container.codec, container.header, container.sections))
    record = {
        "file": common.shown(arguments.input),
        "version": container.version,
        "codec": container.codec,
        "width": width,
        "height": height,
        "channels": rest[0] if rest else 1,
        "bytes": total,
        "bpp": 8 * total / (height * width),
        "container_bytes": total - sum(sizes.values()),
        "sections": sizes,
        "icc_bytes": len(icc) if icc else 0,
        "decoder_macs_per_pixel": macs,
        "header": {k: v for k, v in container.header.items() if k != "shape"},
    }
    if arguments.json:
        print(json.dumps(record))
        return 0
    rows = [
        ["codec", f"{container.codec}, container version {container.version}"],
        ["image", f"{width} x {height}, {'RGB' if record['channels'] == 3 else 'grey'}"],
        ["size", f"{total} bytes, {record['bpp']:.3f} bpp"],
        ["container", f"{record['container_bytes']} bytes"],
    ]
    if macs is not None:
        rows.append(["decoder", f"{macs} multiply-accumulates per pixel in its networks"])
    rows += [
        [name, f"{size} bytes" + (f" ({len(icc)} inflated)" if name == ICC_SECTION and icc else "")]
        for name, size in sizes.items()
    ]
    rows += [[ascii(key)[1:-1], json.dumps(value)] for key, value in record["header"].items()]
    _print_rows(record["file"], rows)
    return 0


def _print_tree(arguments, container) -> int:
    """What a file of compressed weights says of itself."""
    from jaxcomp.coding.container import pack

    total = len(pack(container.codec, container.header, container.sections))
    record = {
        "file": common.shown(arguments.input),
        "version": container.version,
        "codec": container.codec,
        "bytes": total,
        "sections": {name: len(data) for name, data in container.sections.items()},
        "header": container.header,
    }
    if arguments.json:
        print(json.dumps(record))
        return 0
    rows = [
        ["codec", f"{container.codec}, container version {container.version}: weights"],
        ["size", f"{total} bytes"],
        *([name, f"{size} bytes"] for name, size in record["sections"].items()),
        *([ascii(key)[1:-1], json.dumps(value)] for key, value in container.header.items()),
    ]
    _print_rows(record["file"], rows)
    return 0


def _print_features(arguments, container) -> int:
    """What a file of keys and values says of itself."""
    from jaxcomp.coding.container import pack
    from jaxcomp.io.features_header import features_header

    (layers, tokens, heads, size), chunk, dtype, chunks = features_header(container)
    total = len(pack(container.codec, container.header, container.sections))
    numbers = 2 * layers * tokens * heads * size
    model, *messages = map(len, container.sections.values())
    record = {
        "file": common.shown(arguments.input),
        "version": container.version,
        "codec": container.codec,
        "layers": layers,
        "tokens": tokens,
        "heads": heads,
        "size": size,
        "dtype": dtype,
        "bytes": total,
        "bits_per_number": 8 * total / numbers,
        "bytes_per_token": total / tokens,
        "chunk": chunk,
        "container_bytes": total - model - sum(messages),
        "model_bytes": model,
        "chunk_bytes": messages,
    }
    if arguments.json:
        print(json.dumps(record))
        return 0
    plain = numbers * (4 if dtype == "float32" else 2)
    each = f"{min(messages)} to {max(messages)}" if len(set(messages)) > 1 else str(messages[0])
    rows = [
        ["codec", f"{container.codec}, container version {container.version}: keys and values"],
        ["tokens", f"{tokens}, in {chunks} chunks of {chunk} that decode alone"],
        ["of each", f"{layers} layers, {heads} heads of {size}, {dtype}"],
        ["size", f"{total} bytes, {record['bits_per_number']:.2f} bits a number"],
        ["plain", f"{plain} bytes, {plain / total:.1f} times as many"],
        ["container", f"{record['container_bytes']} bytes"],
        ["model", f"{model} bytes, {100 * model / total:.1f} %"],
        ["chunks", f"{sum(messages)} bytes, {each} each"],
    ]
    _print_rows(record["file"], rows)
    return 0


def _print_rows(file, rows) -> None:
    print(file)
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        print(f"  {name.ljust(width)}  {text}")
