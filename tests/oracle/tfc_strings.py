"""Range-coded strings: <case>/cdf, symbols, string, and index where rows are not channels."""

import numpy as np
import tensorflow_compression as tfc


def frequencies(rng, symbols, precision, concentration):
    """Random integers of at least 1 that sum to 2**precision."""
    pmf = rng.dirichlet(np.full(symbols, concentration))
    freq = np.floor(pmf * ((1 << precision) - symbols)).astype(np.int64) + 1
    freq[freq.argmax()] += (1 << precision) - freq.sum()
    return freq


def row(freq, header):
    return [header, 0, *np.cumsum(freq)]


def string_of(cdf, symbols, index=None, handle_shape=()):
    handle = tfc.create_range_encoder(handle_shape, np.asarray(cdf, np.int32))
    if index is None:
        handle = tfc.entropy_encode_channel(handle, symbols)
    else:
        handle = tfc.entropy_encode_index(handle, index, symbols)
    return tfc.entropy_encode_finalize(handle).numpy()


def strings():
    rng = np.random.default_rng(1)
    out = {}

    def add(name, cdf, symbols, index=None):
        cdf, symbols = np.asarray(cdf, np.int32), np.asarray(symbols, np.int32)
        out[f"{name}/cdf"], out[f"{name}/symbols"] = cdf, symbols
        if index is not None:
            out[f"{name}/index"] = index = np.asarray(index, np.int32)
        out[f"{name}/string"] = string_of(cdf, symbols, index)

    # Rows of several lengths, one after another, with escapes: what the entropy models make.
    lengths = rng.integers(2, 60, 8)
    ragged = [row(frequencies(rng, n, 12, 0.3), -12) for n in lengths]
    index = rng.integers(0, 8, 1500)
    symbols = np.round(rng.normal(lengths[index] / 2, lengths[index] / 3)).astype(np.int64)
    add("escapes", np.concatenate(ragged), symbols, index)

    # Every escape length, both signs, on both ends of the row.
    reach = np.array([s * (1 << k) + d for k in range(30) for s in (1, -1) for d in (-1, 0, 1)])
    reach = reach[np.abs(reach) < (1 << 30) - 70]
    add("far", ragged[0], reach, np.zeros(len(reach), np.int64))

    # Stacked rows, the short ones padded; no escapes; channels on the last axis.
    lengths = [17, 5, 30, 2]
    stack = np.full((4, 32), 1 << 16)
    for line, n in zip(stack, lengths, strict=True):
        line[: n + 2] = row(frequencies(rng, n, 16, 0.5), 16)
    add("channels", stack, np.stack([rng.integers(0, n, (6, 50)) for n in lengths], -1))

    # A coin, and values of no probability between others.
    add("coin", [1, 0, 1, 2], rng.integers(0, 2, 400), np.zeros(400, np.int64))
    add("gaps", [4, 0, 3, 3, 3, 9, 16], rng.choice([0, 3, 4], 100), np.zeros(100, np.int64))
    mixed = row([6, 9, 1], -4) + row([100, 100, 56], 8) + row([1, 65534, 1], -16)
    index = rng.integers(0, 3, 300)
    add("mixed", mixed, np.where(index == 1, rng.integers(0, 3, 300), index // 2), index)

    # Intervals that straddle a carry for hundreds of words, then fall to either side or end there.
    middle = [16, 0, 32767, 32769, 65536]
    for last in ("low", "middle", "high"):
        tail = {"low": [0, 1, 1], "middle": [], "high": [2, 1, 1]}[last]
        symbols = np.array([1] * 300 + tail)
        add(f"carry_{last}", middle, symbols, np.zeros(len(symbols), np.int64))
    # Ends of every kind: nothing written, one byte, two bytes.
    third = [8, 0, 86, 171, 256]
    for case in range(24):
        symbols = rng.integers(0, 3, case)
        add(f"short_{case:02}", third, symbols, np.zeros(case, np.int64))
    return out
