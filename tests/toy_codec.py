"""A codec in a page, for tests of what surrounds codecs: files, the command line, the fuzzer."""

import math
import zlib

import numpy as np

from jaxcomp.base import Codec, CorruptStream, Payload


def toy() -> Codec:
    """Samples divided by a step and deflated. No jax, no training, one section."""

    def init(key=None):
        return {"limit": 255}

    def apply(params, x, *, quality=50):
        step = _step(quality)
        codes = (x // step).astype(np.int64)
        return np.minimum(codes * step + step // 2, params["limit"]).astype(np.uint8), 8.0 * x.size

    def encode(params, x, *, quality=50):
        codes = (x // _step(quality)).astype(np.uint8)
        return Payload({"quality": quality, "tables": "00c0ffee"}, {"c": zlib.compress(codes, 9)})

    def decode(params, payload):
        quality = payload.header.get("quality")
        if type(quality) is not int or not 1 <= quality <= 100:
            raise CorruptStream(f"expected a quality of 1 to 100, got {ascii(quality)[:40]}")
        shape = payload.header["shape"]
        inflate = zlib.decompressobj()
        try:
            raw = inflate.decompress(payload.sections.get("c", b""), math.prod(shape) + 1)
        except zlib.error as error:
            raise CorruptStream(f"the codes do not inflate: {error}") from None
        if len(raw) != math.prod(shape) or not inflate.eof:
            raise CorruptStream(f"expected {math.prod(shape)} codes, got {len(raw)}")
        codes = np.frombuffer(raw, np.uint8).reshape(shape).astype(np.int64)
        if codes.max() > 255 // _step(quality):
            raise CorruptStream(f"expected codes up to {255 // _step(quality)}, got {codes.max()}")
        step = _step(quality)
        return np.minimum(codes * step + step // 2, params["limit"]).astype(np.uint8)

    return Codec(init, apply, encode, decode, "toy")


def _step(quality: int) -> int:
    return 1 + (100 - quality) // 2
