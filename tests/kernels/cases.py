"""Random messages for the rANS kernels, made with NumPy alone, and a coder in Python integers."""

from typing import NamedTuple

import numpy as np


class Shape(NamedTuple):
    """What is static about a message; `directory` and `index` say whether it has them."""

    precision: int
    tables: int
    symbols: int
    groups: int
    steps: int
    lanes: int
    directory: bool
    index: bool


# Every precision; one table and many, up to two rows of 128; one symbol, few and many; groups that
# do and do not fill a register of 8 rows; steps that do and do not fill blocks of 4 and 16.
SHAPES = [
    Shape(8, 3, 30, groups=4, steps=5, lanes=32, directory=True, index=True),
    Shape(9, 1, 2, groups=1, steps=16, lanes=32, directory=False, index=False),
    Shape(10, 130, 40, groups=9, steps=6, lanes=128, directory=False, index=True),
    Shape(11, 5, 256, groups=2, steps=21, lanes=64, directory=True, index=True),
    Shape(12, 64, 64, groups=8, steps=17, lanes=128, directory=True, index=True),
    Shape(13, 1, 17, groups=3, steps=33, lanes=32, directory=True, index=False),
    Shape(14, 2, 9, groups=1, steps=3, lanes=128, directory=False, index=True),
    Shape(15, 1, 1, groups=2, steps=18, lanes=64, directory=True, index=False),
    Shape(16, 7, 100, groups=5, steps=40, lanes=64, directory=True, index=True),
]
CASES = 23  # messages per shape: 207; an escape is the last symbol of its table to a kernel
QUICK = {"xla_backend_optimization_level": 0}  # an interpreted kernel runs once: compile it fast


class Message(NamedTuple):
    entries: np.ndarray  # u32[N, K]
    directory: np.ndarray | None  # u32[N, 2**(p - 4)]
    symbols: np.ndarray  # i32[G, T, L], 0 where not valid
    index: np.ndarray | None  # i32[G, T, L]
    count: np.ndarray  # i32[G] valid positions, in (step, lane) order
    start_freq: np.ndarray  # u32[G, T, L]
    head: np.ndarray  # u32[G, L]


def random_tables(rng, precision, tables, symbols):
    """(entries, directory) of skewed distributions in which every symbol has a frequency."""
    total = 1 << precision
    weight = rng.gamma(0.3, size=(tables, symbols)) + 1e-9
    freq = 1 + (weight / weight.sum(1, keepdims=True) * (total - symbols)).astype(np.int64)
    freq[:, 0] += total - freq.sum(1)
    start = np.cumsum(freq, 1) - freq
    entries = ((freq - 1) << 16 | start).astype(np.uint32)
    starts = np.zeros((tables, total), np.int64)
    np.put_along_axis(starts, start, 1, 1)
    buckets = starts.reshape(tables, -1, 16)
    mask = (buckets << np.arange(16)).sum(2)
    before = np.cumsum(buckets.sum(2), 1) - buckets.sum(2) - 1
    return entries, ((before & 0xFFFF) << 16 | mask).astype(np.uint32)


def message(shape, seed):
    """A message drawn from its own tables (every fourth one uniformly), of random length."""
    rng = np.random.default_rng([seed, *shape])
    size = (shape.groups, shape.steps, shape.lanes)
    entries, directory = random_tables(rng, shape.precision, shape.tables, shape.symbols)
    table = rng.integers(0, shape.tables, size, dtype=np.int32) * shape.index
    slot = rng.integers(0, 1 << shape.precision, size)
    symbols = (entries[table] & 0xFFFF <= slot[..., None]).sum(-1, dtype=np.int32) - 1
    if seed % 4 == 0:
        symbols = rng.integers(0, shape.symbols, size, dtype=np.int32)
    count = rng.integers(0, shape.steps * shape.lanes + 1, shape.groups, dtype=np.int32)
    valid = np.arange(shape.steps * shape.lanes).reshape(size[1:]) < count[:, None, None]
    no_operation = np.uint32(((1 << shape.precision) - 1) << 16)
    return Message(
        entries,
        directory if shape.directory else None,
        np.where(valid, symbols, 0),
        table if shape.index else None,
        count,
        np.where(valid, entries[table, symbols], no_operation),
        rng.integers(1 << 16, 1 << 32, (shape.groups, shape.lanes), dtype=np.uint32),
    )


def encode_in_python(head, start_freq, precision):
    """(head, stack of each group): the definition, one symbol at a time, in unbounded integers."""
    head, stacks = head.astype(object), []
    for group, plane in enumerate(start_freq.tolist()):
        stack = []
        for step in reversed(plane):
            for lane in reversed(range(len(step))):
                freq, start = (step[lane] >> 16) + 1, step[lane] & 0xFFFF
                x = int(head[group, lane])
                if x >> (32 - precision) >= freq:
                    stack.append(x & 0xFFFF)
                    x >>= 16
                head[group, lane] = (x // freq << precision) + start + x % freq
        stacks.append(stack)
    return head.astype(np.uint32), stacks
