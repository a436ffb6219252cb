"""zstd, blosc2 and zipnn on the bytes of a model, one measurement at a time.

Runs in an environment of its own (make bench-peers): zipnn needs torch. Says what is there, then
answers each line of JSON on its input with one on its output, so that it takes turns with others:

    {"codec": "zipnn", "threads": 2, "source": FILE, "dtype": "bfloat16", "itemsize": 2,
     "base": FILE or null, "target": FILE or null, "limit": BYTES or null}
    {"encode": SECONDS, "decode": SECONDS, "nbytes": BYTES, "raw": BYTES}

base: the bytes are XORed with it, both ways, which is timed. target: the source is read and the
target written, and back, which is timed; else all is in memory. One thread: one core as well.
"""

import functools
import json
import os
import sys
import time
from importlib import metadata

import blosc2
import numpy as np
import zipnn
import zstandard


def zstd(level):
    def build(threads, dtype, itemsize):
        many = 0 if threads == 1 else threads
        coder = zstandard.ZstdCompressor(level=level, threads=many)
        return coder.compress, zstandard.ZstdDecompressor().decompress

    return build


def blosc(shuffle):
    def build(threads, dtype, itemsize):
        options = {"codec": blosc2.Codec.ZSTD, "clevel": 5, "typesize": itemsize}
        options |= {"filters": [shuffle], "filters_meta": [0], "nthreads": threads}
        encode = functools.partial(blosc2.compress2, **options)
        return encode, functools.partial(blosc2.decompress2, nthreads=threads)

    return build


def zipnn_coder(threads, dtype, itemsize):
    coder = zipnn.ZipNN(bytearray_dtype=dtype, threads=threads)
    return coder.compress, coder.decompress


CODECS = {
    "zstd -3": zstd(3),
    "zstd -19": zstd(19),
    "blosc2 bitshuffle zstd": blosc(blosc2.Filter.BITSHUFFLE),
    "blosc2 shuffle zstd": blosc(blosc2.Filter.SHUFFLE),
    "zipnn": zipnn_coder,
}


@functools.lru_cache(maxsize=2)
def contents(path, changed):
    with open(path, "rb") as file:
        return file.read()


def now_in(path):
    return contents(path, os.stat(path).st_mtime_ns)


def write(path, data):
    with open(path, "wb") as file:
        file.write(data)
        os.fsync(file.fileno())  # as the other contender does


def on_cores(cores):
    """All threads of this process."""
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), cores)


def measure(codec, threads, source, dtype, itemsize, base=None, target=None, limit=None):
    encode, decode = CODECS[codec](threads, dtype, itemsize)
    data = now_in(source)[:limit]
    before = None if base is None else np.frombuffer(now_in(base)[:limit], np.uint8)
    # zipnn may write to what it takes.
    mine = bytearray(data) if target is None else None
    start = time.perf_counter()
    if target is not None:
        with open(source, "rb") as file:
            mine = bytearray(file.read())
    if before is not None:
        mine = bytearray(np.frombuffer(mine, np.uint8) ^ before)
    coded = encode(mine)
    if target is not None:
        write(target, coded)
    middle = time.perf_counter()
    if target is not None:
        with open(target, "rb") as file:
            coded = file.read()
    out = decode(coded)
    if before is not None:
        out = np.frombuffer(out, np.uint8) ^ before
    if target is not None:
        write(f"{target}.out", out)
    end = time.perf_counter()
    if bytes(out) != data:
        raise SystemExit(f"{codec} did not return its bytes")
    return {
        "encode": middle - start,
        "decode": end - middle,
        "nbytes": len(coded),
        "raw": len(data),
    }


def main():
    versions = {name: metadata.version(name) for name in ("zstandard", "blosc2", "zipnn")}
    print(json.dumps({"codecs": list(CODECS), "versions": versions}), flush=True)
    cores = os.sched_getaffinity(0)
    for line in sys.stdin:
        asked = json.loads(line)
        on_cores({min(cores)} if asked["threads"] == 1 else cores)
        print(json.dumps(measure(**asked)), flush=True)


main()
