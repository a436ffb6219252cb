"""What a file of keys and values says of itself, judged before NumPy or jax is loaded.

features_file.py has the layout. What the header claims is compared with the sections of the file.
"""

from typing import NamedTuple

from jaxcomp.base import CorruptStream, UnsupportedInput
from jaxcomp.coding.container import SECTION_LIMIT, Container

KIND = "cachegen"
VERSION = 1
DTYPES = ("float32", "bfloat16", "float16")
CHUNKS = SECTION_LIMIT - 1
CHUNK_LIMIT = 4096  # tokens: what a damaged message may allocate
SIZE_LIMIT = 1 << 31  # of any one axis
FIELDS = {"cachegen_version", "shape", "chunk", "dtype"}


class Header(NamedTuple):
    """shape: layers, tokens, heads, size; chunk: tokens of every message but the last."""

    shape: tuple[int, int, int, int]
    chunk: int
    dtype: str
    chunks: int


def features_header(file: Container) -> Header:
    """What the header says, once it can be believed.

    UnsupportedInput for other files and versions, CorruptStream for a header of no writer.
    """
    if file.codec != KIND:
        raise UnsupportedInput(
            f"expected a file of codec {KIND!r}, written by save_features, got {file.codec!r}; "
            "jaxcomp info says what it holds"
        )
    header = file.header
    if header.get("cachegen_version") != VERSION:
        raise UnsupportedInput(
            f"expected keys and values of version {VERSION}, got "
            f"{header.get('cachegen_version')!r:.40}; install the jaxcomp that wrote them"
        )
    shape, chunk, dtype = (header.get(name) for name in ("shape", "chunk", "dtype"))
    good = isinstance(shape, list) and len(shape) == 4 and dtype in DTYPES
    good = good and all(type(n) is int and 0 < n < SIZE_LIMIT for n in (*shape, chunk))
    if not good or set(header) != FIELDS:
        raise CorruptStream(f"expected shape, chunk and dtype, got {ascii(header)[:120]}")
    chunks = -(-shape[1] // chunk)
    names = ["model", *(f"chunk{i}" for i in range(min(chunks, CHUNKS + 1)))]
    if chunk > CHUNK_LIMIT or list(file.sections) != names:
        raise CorruptStream(
            f"expected a model and {chunks} chunks of up to {CHUNK_LIMIT} tokens, got chunks of "
            f"{chunk} in {len(file.sections)} sections; fetch or write the file again"
        )
    return Header(tuple(shape), chunk, dtype, chunks)
