"""A wire as bytes, for hosts and disks: no more than its arrays, less where they are uneven.

Every array goes as planes of bytes, each with a table of its own frequencies where that is smaller
(coding/coded_array.py); collectives cannot, for their shapes are fixed. Places, as of top_k, become
gaps, about log2(d / k) + 1.44 bits each where they lie at random, and fewer in clusters. Of values
of Student's t with 3 degrees of freedom, int8 in blocks took 0.80 of its wire, int4 0.58, natural
0.43, float32 0.84.

    u8      version 2 and how: 0 arrays as they are, 1 coded
    coded   u8 for each part with places, whether they are gaps; then all planes: varint length,
            bytes
    u32     CRC32 of what these bytes are of, shapes and dtypes, and of all before

Little-endian. Nothing is larger than the arrays and 6 bytes. In version 1 places were in any order,
ceil(log2 d) bits each.
"""

import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.base import CorruptStream, UnsupportedInput
from jaxcomp.coding.coded_array import check_plane, read_array, symbol_counts, write_array
from jaxcomp.optim.places import numbers_nbytes, pack_places, unpack_numbers, unpack_places
from jaxcomp.optim.wire import Wire

VERSION = 2
ANY_ORDER = 1  # the version before
RAW, CODED = 0, 1


def encode_wire(wire: Any) -> bytes:
    """wire: what a compressor has made, concrete, or a pytree of wires. On the host."""
    parts = _parts(wire)
    if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(wire)):
        raise UnsupportedInput("expected a wire on the host, got one under jit; encode it outside")
    raw = [x for part in parts for x in _arrays(part)]
    flags, planes = b"", []
    for part in parts:
        coded = _coded(_arrays(part))
        if _has_places(part):
            gaps = _to_gaps(part)
            gapped = None if gaps is None else _coded(gaps)
            fewer = gapped is not None and sum(map(len, gapped)) < sum(map(len, coded))
            flags += bytes([fewer])
            coded = gapped if fewer else coded
        planes += coded
    body = flags + b"".join(_varint(len(plane)) + plane for plane in planes)
    stored = b"".join(np.ascontiguousarray(x).tobytes() for x in raw)
    how, body = (CODED, body) if len(body) < len(stored) else (RAW, stored)
    data = bytes([VERSION << 4 | how]) + body
    return data + _checksum(wire, data)


def decode_wire(data: bytes, like: Any) -> Any:
    """The wire, exactly; of version 1, with its entries in the order of their places.

    like: a wire of the same shapes, or jax.eval_shape of what makes one:
    jax.eval_shape(compressor.compress, key, x, state)[0]. CorruptStream for bytes that are not of
    encode_wire, or of a wire of other shapes; nothing is allocated that like does not have.
    """
    version, how = (data[0] >> 4, data[0] & 15) if data else (VERSION, RAW)
    if version not in (ANY_ORDER, VERSION) or how not in (RAW, CODED):
        raise CorruptStream(f"expected version {VERSION}, got byte {data[0]}; update jaxcomp")
    parts = _parts(like)
    written = [_in_any_order(part) for part in parts] if version == ANY_ORDER else parts
    if len(data) < 5 or data[-4:] != _checksum(written, data[:-4]):
        raise CorruptStream(
            f"expected the bytes of a wire of these shapes, got {len(data)} others; fetch them "
            "again, or give decode_wire what the sender compressed"
        )
    reader = _Reader(data[1:-4])
    coded = how == CODED
    gapped = [bool(reader.take(1)[0]) if coded and _has_places(part) else False for part in parts]
    read = []
    for part, of, gaps in zip(parts, written, gapped, strict=True):
        if gaps:
            read += _from_gaps(reader, part)
            continue
        arrays = [(_decoded if coded else _stored)(reader, x) for x in _shapes(of)]
        read += arrays if of is part else _in_order(arrays, part)
    reader.finish()
    return jax.tree.unflatten(jax.tree.structure(like), [jnp.asarray(x) for x in read])


def _parts(wire):
    """Wires with places, and all other arrays, in the order of leaves."""
    return jax.tree.leaves(wire, is_leaf=_has_places)


def _has_places(x):
    parts = x.parts if isinstance(x, Wire) else None
    return (
        isinstance(parts, dict) and set(parts) == {"values", "places"} and parts["values"].ndim == 1
    )


def _shapes(part):
    return [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in jax.tree.leaves(part)]


def _arrays(part):
    return [np.asarray(x) for x in jax.tree.leaves(part)]


def _coded(arrays):
    return [plane for x in arrays for plane in write_array(x)[1]]


def _decoded(reader, like):
    planes = []
    for symbols in symbol_counts("bytes", like.shape, np.dtype(like.dtype), None):
        length = reader.varint()
        check_plane(length, symbols)
        planes.append(reader.take(length))
    return read_array("bytes", planes, like.shape, np.dtype(like.dtype), None)


def _stored(reader, like):
    dtype = np.dtype(like.dtype)
    return np.frombuffer(reader.take(like.size * dtype.itemsize), dtype).reshape(like.shape)


def _to_gaps(wire):
    """[gaps, values]; None where places do not rise."""
    values = np.asarray(wire.parts["values"])
    places = unpack_places(jnp.asarray(wire.parts["places"]), wire.size, len(values))
    gaps = np.diff(np.asarray(places), prepend=-1) - 1
    return None if (gaps < 0).any() else [gaps.astype(np.int32), values]


def _from_gaps(reader, like):
    """[places, values], as leaves of the wire lie."""
    values = like.parts["values"]
    gaps = _decoded(reader, jax.ShapeDtypeStruct(values.shape, jnp.int32)).astype(np.int64)
    return _leaves(np.cumsum(gaps + 1) - 1, _decoded(reader, values), like)


def _leaves(places, values, like):
    if len(places) and ((np.diff(places, prepend=-1) < 1).any() or places[-1] >= like.size):
        raise CorruptStream(f"expected places below {like.size}, got others; fetch the file again")
    packed = pack_places(jnp.asarray(places.astype(np.int32)), like.size)
    found = {"places": np.asarray(packed), "values": values}
    return [found[name] for name in sorted(found)]


def _in_any_order(part):
    """What a part looked like in version 1."""
    if not _has_places(part):
        return part
    count, bits = part.parts["values"].shape[0], _bits(part.size)
    places = jax.ShapeDtypeStruct((numbers_nbytes(count, bits),), jnp.uint8)
    return Wire({**part.parts, "places": places}, part.shape, part.dtype)


def _in_order(arrays, like):
    packed, values = arrays
    places = np.asarray(unpack_numbers(jnp.asarray(packed), _bits(like.size), len(values)))
    order = np.argsort(places, kind="stable")
    return _leaves(places[order].astype(np.int64), values[order], like)


def _bits(size):
    return max(0, size - 1).bit_length()


def _checksum(wire, data):
    """wire: one, or its parts, whose leaves are the same."""
    shapes = repr([(x.shape, str(x.dtype)) for x in jax.tree.leaves(wire)]).encode()
    return zlib.crc32(data, zlib.crc32(shapes)).to_bytes(4, "little")


def _varint(value):
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


class _Reader:
    """Reads that stay inside of the bytes."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        if count > len(self.data) - self.at:
            raise CorruptStream(
                f"expected {count} bytes at byte {self.at}, got {len(self.data) - self.at}; "
                "fetch them again"
            )
        self.at += count
        return self.data[self.at - count : self.at]

    def varint(self):
        value = 0
        for place in range(9):
            byte = self.take(1)[0]
            value |= (byte & 127) << 7 * place
            if byte < 128:
                return value
        raise CorruptStream("expected a length of at most 63 bits, got a longer one")

    def finish(self):
        if self.at != len(self.data):
            raise CorruptStream(f"expected {self.at} bytes, got {len(self.data)}; fetch them again")
