"""Weights of learned codecs as files (.jxw): a container of arrays, and the codec they are for.

What a decoder computes with is stored as the integers it is; what only the encoder needs, floats of
analysis, on a grid of 12 bits (packed_arrays). Header: the codec's name and design, the hash of
what decodes, the decoder's multiply-accumulates per pixel, and a row for each array of section
"arrays".
"""

import zlib
from typing import Any

import numpy as np

from jaxcomp.base import Codec, CorruptStream, UnsupportedInput
from jaxcomp.codecs.header import TRAINABLE
from jaxcomp.coding.container import pack, unpack

KIND = "weights"
LISTS = "slices", "passes"
FIRST_FIELDS = "slices", "side", "width", "means", "passes"


def save_weights(codec: Codec, params: Any) -> bytes:
    """The .jxw file of params: floats from training, or what load_weights gave."""
    from jaxcomp.codecs import latent_frozen as latents
    from jaxcomp.codecs.latent_macs import decoder_macs_per_pixel
    from jaxcomp.codecs.packed_arrays import pack_arrays

    if codec.name not in TRAINABLE:
        raise UnsupportedInput(f"expected one of {', '.join(TRAINABLE)}, got {codec.name}")
    design, params = codec.init.args[0], frozen(codec, params)
    listing, packed = pack_arrays(_flatten(latents.to_arrays(params)))
    header = {
        "codec_name": codec.name,
        "design": {k: list(v) if k in LISTS else v for k, v in design._asdict().items()},
        "decoder": weights_hash(params),
        "macs_per_pixel": round(decoder_macs_per_pixel(design).total),
        "arrays": listing,
    }
    return pack(KIND, header, {"arrays": packed})


def load_weights(data: bytes) -> tuple[Codec, Any]:
    """(codec, params) of a .jxw file. Raises CorruptStream, or UnsupportedInput for other files."""
    from jaxcomp.codecs import latent_frozen as latents
    from jaxcomp.codecs.latent_coding import latent_codec
    from jaxcomp.codecs.packed_arrays import unpack_arrays

    container = unpack(data)
    if container.codec != KIND:
        raise UnsupportedInput(f"expected a file of weights, got one of codec {container.codec}")
    name, arrays = container.header.get("codec_name"), container.sections.get("arrays", b"")
    if name not in TRAINABLE:
        raise UnsupportedInput(f"expected weights for one of {', '.join(TRAINABLE)}, got {name!r}")
    try:
        codec = latent_codec(_design_of(name, container.header["design"]))
        flat = unpack_arrays(container.header["arrays"], arrays)
        params = latents.from_arrays(_nest(flat))
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptStream(f"expected the arrays of {name}, got others: {error}") from None
    return codec, params


def frozen(codec: Codec, params: Any) -> Any:
    """The integers of params: of training, or what load_weights gave."""
    from jaxcomp.codecs import latent_frozen as latents

    if isinstance(params, latents.Frozen):
        return params
    return latents.freeze(codec.init.args[0], params)


def weights_hash(params: Any) -> str:
    """CRC32 of what a decoder needs, as eight hexadecimal digits; files name it."""
    from jaxcomp.codecs import latent_frozen as latents

    arrays = latents.to_arrays(params)
    crc = 0
    for path, array in sorted(_flatten(arrays).items()):
        if not path.startswith(("analysis/", "prior/")):
            array = np.asarray(array)
            crc = zlib.crc32(f"{path} {array.shape} ".encode(), crc)
            crc = zlib.crc32(np.ascontiguousarray(array.astype("<i4")), crc)
    return f"{crc:08x}"


def _design_of(name, fields):
    """The design that a header describes: fields by name, or as a list in the first files."""
    from jaxcomp.codecs.latent_codec import Design

    if isinstance(fields, list):
        fields = dict(zip(FIRST_FIELDS, fields, strict=True))
    if not isinstance(fields, dict):
        raise TypeError(f"expected the fields of a design, got {fields!r:.40}")
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    return Design(**{**fields, "name": name})


def _flatten(tree, prefix=""):
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}/")
        else:
            flat[prefix + key] = value
    return flat


def _nest(flat):
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *folders, name = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = value
    return tree
