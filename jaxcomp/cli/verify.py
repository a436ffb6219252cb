"""jaxcomp verify: whether a .jxc file is whole, and holds what was put in."""

import argparse
import time

from jaxcomp.base import UnsupportedInput
from jaxcomp.cli import common

EPILOG = """\
examples:
  jaxcomp verify model.jxc                 structure and the checksum of every chunk: a read
  jaxcomp verify model.jxc --decode        also decodes all, and compares SHA-256 of the originals;
                                           trees: that they can be put together again
  jaxcomp verify new.jxc --decode --base old.jxc

Memory is that of a few chunks of 4 MB, and nothing is written. The exit code is 0 for a whole file
and 2 for a damaged one, which is named with the place of the damage.
"""


def add(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.description = "Check a .jxc file of any kind."
    parser.epilog = EPILOG
    parser.add_argument("input", metavar="FILE.jxc", help="the file to check, or -")
    parser.add_argument("--decode", action="store_true", help="models: decode and compare SHA-256")
    common.add_base(parser, "the file that this one is a delta against, for --decode")
    common.add_max_bytes(parser)
    common.add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Read all of it."""
    start = time.perf_counter()
    with common.judged(arguments.input) as (version, source), common.naming(arguments.input):
        if version != 2:
            record = _signal(arguments, source)
        else:
            record = _tensors(arguments, source)
    record |= common.speed(record["bytes"], time.perf_counter() - start)
    what = "decoded, as it was put in" if record["decoded"] else "every checksum fits"
    line = f"{record['file']}: {record['chunks']} parts, {record['bytes']} bytes: {what}"
    common.report(line, record, arguments, arguments.input if arguments.json else "")
    return 0


def _signal(arguments, source):
    from jaxcomp.coding.container import read

    container = read(source)
    if arguments.decode:
        if container.codec != "tree":
            raise UnsupportedInput("--decode is for models, this is a photo; decompress it")
        common.start_jax()
        from jaxcomp.io.weights_file import verify_weights

        verify_weights(container)
    sizes = [len(data) for data in container.sections.values()]
    name = common.shown(arguments.input)
    return {"file": name, "chunks": len(sizes), "bytes": sum(sizes), "decoded": arguments.decode}


def _tensors(arguments, source):
    from jaxcomp.io.model_files import verify_file
    from jaxcomp.io.shard_files import check_shards
    from jaxcomp.io.tensors import open_tensors
    from jaxcomp.io.weights_file import check_tree

    if arguments.decode:
        common.start_jax()
    options = {"base": arguments.base, "threads": arguments.threads}
    options["max_nbytes"] = arguments.max_bytes
    with open_tensors(source, **options) as file:
        total = sum(row.nbytes for row in file.rows)
        with common.progress_bytes(total, "verifying") as advance:
            if arguments.decode and "files" in file.index:
                verify_file(file, progress=advance)
            else:
                if arguments.decode and "tree" in file.index:
                    check_tree(file.index["tree"], file.rows)
                if arguments.decode and file.index.get("kind") == "shards":
                    check_shards(file)
                file.verify(decode=arguments.decode, progress=advance)
        return {
            "file": common.shown(arguments.input),
            "chunks": file.chunks,
            "bytes": file.nbytes,
            "decoded": arguments.decode,
        }
