"""The index of a file of tensors: what it says of arrays, and what of that is believed."""

from typing import Any

from jaxcomp.base import CorruptStream, UnsupportedInput
from jaxcomp.coding.chunked import Reader
from jaxcomp.io.tensor_pools import ALONE, BEGINS, FOLLOWS, Pools
from jaxcomp.io.tensor_rows import CHUNK_LIMIT, CODEC, LEAST, SLACK, VERSION, Row, cut, fits
from jaxcomp.io.tree_nodes import dtype_of


def entry(row: Row, how: int) -> list[Any]:
    """What the index says of an array. how: whether it shares a chunk (tensor_pools.py)."""
    return [row.name, row.dtype.name, list(row.shape), *([how] if how else [])]


def read_rows(file: Reader) -> list[Row]:
    """The arrays of a file, all that is said of them checked against its size."""
    if file.codec != CODEC:
        raise UnsupportedInput(
            f"expected a file of codec {CODEC!r}, got {file.codec!r}; jaxcomp info says what it is"
        )
    version = file.header.get("tensors_version")
    if type(version) is not int or not 1 <= version <= VERSION:
        raise UnsupportedInput(
            f"expected tensors of version 1 to {VERSION}, got {version!r:.40}; install the jaxcomp "
            "that wrote them"
        )
    chunk_nbytes = file.header.get("chunk_nbytes")
    if type(chunk_nbytes) is not int or not LEAST <= chunk_nbytes <= CHUNK_LIMIT:
        raise CorruptStream(
            f"expected chunks of {LEAST} to {CHUNK_LIMIT} bytes, got {chunk_nbytes!r}"
        )
    entries, pools = file.index.get("arrays"), Pools(chunk_nbytes)
    if not isinstance(entries, list):
        raise CorruptStream("expected a list of arrays in the index, got none")
    for found in entries:
        pools.add(*_row(found, chunk_nbytes, version))
        if pools.chunks > len(file.lengths):
            raise CorruptStream(f"expected {pools.chunks} chunks and more, got {len(file.lengths)}")
    pools.end()
    if pools.chunks != len(file.lengths):
        raise CorruptStream(f"expected {pools.chunks} chunks, got {len(file.lengths)}")
    names = [row.name for row in pools.rows if row.name is not None]
    if len(set(names)) != len(names):
        raise CorruptStream("expected a name of its own for each array, got one twice")
    for row in pools.rows:
        for k in range(row.chunks):
            count = row.pool or min(row.step, row.size - k * row.step)
            if not 0 < file.lengths[row.first + k] <= count * row.dtype.itemsize + SLACK:
                raise CorruptStream(
                    f"expected at most {count * row.dtype.itemsize + SLACK} bytes for {count} "
                    f"values of {row.label}, got {file.lengths[row.first + k]}"
                )
    return pools.rows


def _row(found: Any, chunk_nbytes: int, version: int) -> tuple[Row, int]:
    good = isinstance(found, list) and 3 <= len(found) <= 2 + version and isinstance(found[2], list)
    good = good and (found[0] is None or isinstance(found[0], str))
    how = found[3] if good and len(found) > 3 else ALONE
    good = good and type(how) is int and (len(found) == 3 or how in (FOLLOWS, BEGINS))
    if not good or not all(type(n) is int for n in found[2]) or not fits(found[2]):
        raise CorruptStream(f"expected an array's name, dtype and shape, got {ascii(found)[:80]}")
    dtype, shape = dtype_of(found[1]), tuple(found[2])
    return Row(found[0], dtype, shape, 0, cut(shape, dtype, chunk_nbytes)), how
