"""Times CompressAI's rANS coder on a message given as .npz; prints JSON.

Only its extension module is loaded, so torch is not needed (make bench-peers). Its tables have 16
bits, so frequencies of a lower precision are scaled up, which leaves every probability as it is.
    python compressai_coder.py MESSAGE.npz REPEATS
"""

import glob
import importlib.util
import json
import statistics
import sys
import sysconfig
import time
from importlib import metadata

import numpy as np


def main(path: str, repeats: int) -> None:
    found = glob.glob(sysconfig.get_paths()["purelib"] + "/compressai/ans.*.so")
    spec = importlib.util.spec_from_file_location("ans", found[0])
    ans = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(ans)
    message = np.load(path)
    frequencies = message["frequencies"].astype(np.int64) << (16 - int(message["precision"]))
    # The coder keeps the last symbol of a table as its escape: give it one slot of the first.
    frequencies[np.arange(len(frequencies)), frequencies.argmax(1)] -= 1
    cdf = np.concatenate([np.zeros_like(frequencies[:, :1]), frequencies.cumsum(1)], 1)
    cdf = np.concatenate([cdf, np.full_like(cdf[:, :1], 1 << 16)], 1).tolist()
    lengths, offsets = [len(row) for row in cdf], [0] * len(cdf)
    # It takes lists; making them is not counted.
    symbols, index = message["symbols"].tolist(), message["index"].tolist()
    times = {"encode": [], "decode": []}
    for _ in range(repeats + 1):
        start = time.perf_counter()
        data = ans.RansEncoder().encode_with_indexes(symbols, index, cdf, lengths, offsets)
        middle = time.perf_counter()
        out = ans.RansDecoder().decode_with_indexes(data, index, cdf, lengths, offsets)
        times["encode"].append(middle - start)
        times["decode"].append(time.perf_counter() - middle)
    if out != symbols:
        raise SystemExit("the peer did not return its message")
    seconds = {name: statistics.median(values[1:]) for name, values in times.items()}
    print(json.dumps(seconds | {"bytes": len(data), "version": metadata.version("compressai")}))


main(sys.argv[1], int(sys.argv[2]))
