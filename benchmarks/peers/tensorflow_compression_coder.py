"""Times tensorflow-compression's indexed range coder on a message given as .npz; prints JSON.

Runs in an environment of its own (make bench-peers): tensorflow-compression pins an old NumPy.
    python tensorflow_compression_coder.py MESSAGE.npz REPEATS
"""

import json
import os
import statistics
import sys
import time
from importlib import metadata

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import tensorflow as tf
import tensorflow_compression as tfc


def main(path: str, repeats: int) -> None:
    message = np.load(path)
    frequencies, precision = message["frequencies"].astype(np.int64), int(message["precision"])
    cdf = np.concatenate([np.zeros_like(frequencies[:, :1]), frequencies.cumsum(1)], 1)
    head = np.full((len(cdf), 1), precision)
    lookup = tf.constant(np.concatenate([head, cdf], 1).astype(np.int32))
    symbols, index = tf.constant(message["symbols"]), tf.constant(message["index"])

    def encode():
        handle = tfc.create_range_encoder([], lookup)
        handle = tfc.entropy_encode_index(handle, index, symbols)
        return tfc.entropy_encode_finalize(handle).numpy()

    def decode(data):
        handle = tfc.create_range_decoder(tf.constant(data), lookup)
        handle, out = tfc.entropy_decode_index(handle, index, index.shape, tf.int32)
        return out, tfc.entropy_decode_finalize(handle)

    times = {"encode": [], "decode": []}
    for _ in range(repeats + 1):
        start = time.perf_counter()
        data = encode()
        middle = time.perf_counter()
        out, _ = decode(data)
        times["encode"].append(middle - start)
        times["decode"].append(time.perf_counter() - middle)
    if not (out.numpy() == message["symbols"]).all():
        raise SystemExit("the peer did not return its message")
    seconds = {name: statistics.median(values[1:]) for name, values in times.items()}
    print(
        json.dumps(
            seconds | {"bytes": len(data), "version": metadata.version("tensorflow-compression")}
        )
    )


main(sys.argv[1], int(sys.argv[2]))
