"""Keys and values of a context as a .jxc file: the model of cachegen and its chunks.

Container (coding/container.py) of codec "cachegen", header {"cachegen_version", "shape": [layers,
tokens, heads, size], "chunk": tokens, "dtype"}, and the sections

    model                what all chunks are read with (kvcache/cachegen_model.py)
    chunk0, chunk1, ...  a message of kvcache/cachegen.py each

What the header claims is compared with the size of the file before it is allocated.
"""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.base import CorruptStream, UnsupportedInput
from jaxcomp.coding import container
from jaxcomp.io.features_header import CHUNKS, DTYPES, KIND, VERSION, features_header
from jaxcomp.kvcache import cachegen_model
from jaxcomp.kvcache.cachegen import CHUNK_LIMIT, CacheGen, cachegen, decode, dequantize
from jaxcomp.kvcache.cachegen_model import Model


class FeaturesFile(NamedTuple):
    """What a file holds, judged but not decoded."""

    model: Model
    messages: list[bytes]
    shape: tuple[int, int, int, int]
    chunk: int
    dtype: Any


def save_features(
    path: str | os.PathLike[str],
    keys: Any,
    values: Any,
    *,
    codec: CacheGen | None = None,
    model: Model | None = None,
    queries: Any = None,
) -> int:
    """Write keys and values f[layers, tokens, heads, size] of one context; returns the bytes.

    codec: jc.kvcache.cachegen(level). model: what its fit made of other contexts; of this one by
    default, with the bins of keys chosen by queries where they are given. The file replaces the old
    one at once, or not at all.
    """
    data = features_bytes(keys, values, codec=codec, model=model, queries=queries)
    container.write_atomic(path, data)
    return len(data)


def load_features(
    path: str | os.PathLike[str], *, chunks: Sequence[int] | None = None
) -> tuple[jax.Array, jax.Array]:
    """(keys, values) [layers, tokens, heads, size] as the saved codes have them, in their dtype.

    chunks: only these, one behind the other; the others are not decoded. Raises CorruptStream for
    bytes that no writer made, naming the chunk, and UnsupportedInput for other files.
    """
    return features_of(opened(container.read(path)), chunks)


def features_bytes(
    keys: Any,
    values: Any,
    *,
    codec: CacheGen | None = None,
    model: Model | None = None,
    queries: Any = None,
) -> bytes:
    """The bytes of the file."""
    codec = cachegen() if codec is None else codec
    if str(keys.dtype) not in DTYPES or keys.dtype != values.dtype:
        raise UnsupportedInput(
            f"expected keys and values of one dtype among {', '.join(DTYPES)}, got {keys.dtype} "
            f"and {values.dtype}; cast them"
        )
    if keys.ndim == 4 and keys.shape[1] > CHUNKS * codec.chunk:
        raise UnsupportedInput(
            f"expected at most {CHUNKS} chunks of {codec.chunk} tokens, got {keys.shape[1]} tokens;"
            f" raise chunk, up to {CHUNK_LIMIT}"
        )
    if model is None:
        model = codec.fit(keys, values, queries=queries)
    messages = codec.encode(model, codec.quantize(model, keys, values))
    header = {
        "cachegen_version": VERSION,
        "shape": list(keys.shape),
        "chunk": codec.chunk,
        "dtype": str(keys.dtype),
    }
    sections = {"model": cachegen_model.to_bytes(model)}
    sections |= {f"chunk{i}": message for i, message in enumerate(messages)}
    return container.pack(KIND, header, sections)


def opened(file: container.Container) -> FeaturesFile:
    """What a container holds, all that can be judged without decoding a chunk."""
    header = features_header(file)
    layers, _, heads, size = header.shape
    model = cachegen_model.from_bytes(file.sections["model"], layers, heads * size)
    messages = [file.sections[f"chunk{i}"] for i in range(header.chunks)]
    return FeaturesFile(model, messages, header.shape, header.chunk, jnp.dtype(header.dtype))


def features_of(
    file: FeaturesFile, chunks: Sequence[int] | None = None
) -> tuple[jax.Array, jax.Array]:
    """load_features, of what was opened."""
    heads = file.shape[2]
    chunks = range(len(file.messages)) if chunks is None else chunks
    if not len(chunks) or not all(0 <= i < len(file.messages) for i in chunks):
        raise UnsupportedInput(
            f"expected chunks from 0 to {len(file.messages) - 1}, got {list(chunks)!r:.60}"
        )
    parts = [dequantize(file.model, codes_of(file, i), heads) for i in chunks]
    keys, values = (
        jax.device_put(np.concatenate(x, 1).astype(file.dtype)) for x in zip(*parts, strict=True)
    )
    return keys, values


def codes_of(file: FeaturesFile, chunk: int) -> np.ndarray:
    """The codes of one chunk, i32[2, layers, tokens, channels]."""
    tokens = min(file.chunk, file.shape[1] - chunk * file.chunk)
    try:
        codes = decode(file.model, file.messages[chunk], tokens=tokens)
    except CorruptStream as error:
        raise CorruptStream(f"chunk {chunk} of {len(file.messages)}: {error}") from None
    if codes.shape[2] != tokens:
        raise CorruptStream(
            f"chunk {chunk} of {len(file.messages)}: expected {tokens} tokens, got "
            f"{codes.shape[2]}; fetch or write the file again"
        )
    return codes
