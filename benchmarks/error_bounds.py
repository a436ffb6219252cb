"""Bytes at a bound on every value, beside SZ3, zfp, and rounding to the bound with lossless coding.

    python -m benchmarks.error_bounds --data DATA [--minilm model.safetensors] [--cache FOLDER]
                                      [--out results.json]

Bounds are shares of max - min of each array, and of each value ("relative"). SZ3 (pysz, the best of
its algorithms) and zfp (zfpy, fixed accuracy) are measured where they are installed, as by `make
bench`; every array that any of them gives back is checked against the bound. Adam's moments are
those of the transformer of checkpoints.py after its last step. Speeds are of one call on one array
after another, in this process, and say little on a machine that is busy.
"""

import argparse
import json
import pathlib
import time

import numpy as np

from benchmarks.machine import machine
from jaxcomp.coding.bounded_chunk import decode_any, encode_bounded
from jaxcomp.coding.tensor_chunk import decode_chunk, encode_chunk

SHARES = 1e-2, 1e-3, 1e-4
RELATIVE = 1e-1, 1e-2, 1e-3
MATRICES = 24  # of MiniLM
CACHE = pathlib.Path(__file__).parent.parent / "scratch/checkpoints"  # as of checkpoints.py


def ours(x, bound, relative):
    coded = encode_bounded(x, bound, relative=relative).data
    return len(coded), decode_any(coded, x.dtype, x.size).reshape(x.shape)


def rounded(x, bound, relative):
    """To multiples of two bounds, or to as many bits as the bound lets be; then without loss."""
    if relative:
        drop = 23 - max(0, int(np.ceil(-np.log2(bound))) - 1)
        bits = x.view(np.uint32) + np.uint32(1 << drop >> 1)
        near = (bits >> np.uint32(drop) << np.uint32(drop)).view(np.float32)
    else:
        near = (np.rint(x.astype(np.float64) / (2 * bound)) * (2 * bound)).astype(x.dtype)
    coded = min(encode_chunk(near), encode_chunk(x), key=len)
    return len(coded), decode_chunk(coded, x.dtype, x.size).reshape(x.shape)


def sz3(x, bound, relative):
    from pysz import sz, szAlgorithm, szConfig, szErrorBoundMode

    best = None
    for name in ("INTERP_LORENZO", "LORENZO_REG", "INTERP"):
        config = szConfig()
        config.errorBoundMode, config.absErrorBound = szErrorBoundMode.ABS, bound
        config.cmprAlgo = getattr(szAlgorithm, name)
        coded, _ = sz.compress(x, config)
        if best is None or coded.nbytes < best.nbytes:
            best = coded
    return best.nbytes, sz.decompress(best, x.dtype, x.shape)[0]


def zfp(x, bound, relative):
    import zfpy

    coded = zfpy.compress_numpy(x, tolerance=bound)
    return len(coded), zfpy.decompress_numpy(coded)


def sources(data, minilm, cache):
    """(name, arrays of float32)"""
    fields = sorted((data / "science/era5").glob("*.npy"))
    if fields:
        yield "ERA5, 5 x 46 x 90", [np.concatenate([np.load(path) for path in fields])]
    mesh = data / "science/mesh/stanford-bunny.obj"
    if mesh.exists():
        lines = (line.split() for line in mesh.read_text().splitlines() if line.startswith("v "))
        yield "bunny, vertices", [np.array([line[1:] for line in lines], np.float32)]
    if minilm:
        from safetensors.numpy import load_file

        found = [x for x in load_file(minilm).values() if x.ndim == 2 and 1e5 < x.size < 2e6]
        yield "MiniLM, matrices", found[:MATRICES]
    if (data / "text").exists():
        found = adam(data, cache)
        for kind in ("mu", "nu"):
            matrices = [x for path, x in found.items() if f"/{kind}/" in path and x.ndim == 2]
            yield f"Adam {kind}, matrices", matrices
    draw = np.random.default_rng(0)
    yield "normal, 1024 x 1024", [draw.standard_normal((1024, 1024), np.float32)]
    at = np.stack(np.meshgrid(*[np.linspace(0, 3, n) for n in (32, 64, 128)], indexing="ij"))
    smooth = np.sin(at[0] + 2 * at[1]) * np.cos(at[2] * (1 + at[1])) + 2
    yield "sines, 32 x 64 x 128", [smooth.astype(np.float32)]


def adam(data, cache):
    """{path: array} of a state of Adam, from a file in the cache where it is there."""
    import jax.numpy as jnp

    import jaxcomp as jc
    from benchmarks import checkpoints_data
    from benchmarks.optim_tasks import text_task

    path = cache / "adam_float32_0.jxc"
    if path.exists():
        with jc.io.open_tensors(path) as file:
            return {name: file.read(name) for name in file.names}
    found = checkpoints_data.adam_states(text_task(data), dtype=jnp.float32, ago=(0,))[0]
    cache.mkdir(parents=True, exist_ok=True)
    jc.io.save_tensors(path, iter(found.items()))
    return found


def measure(coder, arrays, bound, relative):
    """Ratio and seconds, or None where it is not installed or does not hold the bound."""
    nbytes, start = 0, time.perf_counter()
    for x in arrays:
        limit = bound if relative else bound * float(np.ptp(x))
        size, back = coder(x, limit, relative)
        wide = x.astype(np.float64)
        error = np.abs(wide - back.astype(np.float64))
        # SZ3 and zfp round to float32 after they have met the bound.
        slack = 0 if coder is ours else np.spacing(np.abs(x)).astype(np.float64)
        if (error > limit * (np.abs(wide) if relative else 1) * (1 + 1e-12) + slack).any():
            return None
        nbytes += size
    raw = sum(x.nbytes for x in arrays)
    return {"ratio": raw / nbytes, "seconds": time.perf_counter() - start, "raw": raw}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path("../shared/data"))
    parser.add_argument("--minilm")
    parser.add_argument("--cache", type=pathlib.Path, default=CACHE, help="trained states")
    parser.add_argument("--out")
    arguments = parser.parse_args()
    rows = []
    for name, arrays in sources(arguments.data, arguments.minilm, arguments.cache):
        for relative, bounds in ((False, SHARES), (True, RELATIVE)):
            for bound in bounds:
                row = {"data": name, "bound": bound, "relative": relative}
                for coder in (ours, rounded) if relative else (ours, rounded, sz3, zfp):
                    try:
                        row[coder.__name__] = measure(coder, arrays, bound, relative)
                    except ImportError:
                        row[coder.__name__] = None
                rows.append(row)
                ratios = {
                    key: f"{x['ratio']:.2f}" if x else "-"
                    for key, x in row.items()
                    if x is None or isinstance(x, dict)
                }
                said = "  ".join(f"{key} {x:>7}" for key, x in ratios.items())
                print(f"{name:22} {'relative' if relative else 'of range':8} {bound:6g}  {said}")
    if arguments.out:
        found = {"machine": machine(), "rows": rows}
        pathlib.Path(arguments.out).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
