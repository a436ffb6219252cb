"""Run lengths: an array as its runs, the values and how often each repeats."""

import numpy as np

from jaxcomp.base import CorruptStream, JaxcompError


def run_length_encode(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """values [n] -> (values [runs], lengths int64[runs]); neighbours differ, lengths sum to n."""
    values = np.asarray(values)
    if values.ndim != 1:
        raise JaxcompError(f"expected one axis, got shape {values.shape}; flatten it first")
    if not len(values):
        return values, np.zeros(0, np.int64)
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    return values[starts], np.diff(starts, append=len(values))


def run_length_decode(values: np.ndarray, lengths: np.ndarray, *, count: int) -> np.ndarray:
    """The array of `count` values. Raises CorruptStream unless the lengths sum to it."""
    lengths = np.asarray(lengths, np.int64)
    # Checked as exact integers before anything of that size is allocated.
    total = sum(map(int, lengths))
    if len(lengths) != len(values) or (lengths < 0).any() or total != count:
        raise CorruptStream(f"expected runs of {count} values in all, got {total}")
    return np.repeat(values, lengths)
