"""Safetensors files of arrays alone, with metadata of one's own: what other tools expect.

safetensors_leaves.py writes trees and leaves, with an index that only we read; reading is the same.
"""

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxcomp.base import UnsupportedInput
from jaxcomp.coding.atomic import replacing
from jaxcomp.io.safetensors_leaves import ALIGNMENT, DTYPES, HEADER_LIMIT


def save_plain(
    path: str | os.PathLike[str], arrays: Mapping[str, Any], metadata: Mapping[str, str]
) -> int:
    """Write {name: array}; returns the bytes of the file. UnsupportedInput for other dtypes."""
    codes = {name: code for code, name in DTYPES.items()}
    kept = {name: np.asarray(x) for name, x in arrays.items()}
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    body, end = [], 0
    for name, x in sorted(kept.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])):
        if x.dtype.name not in codes or name == "__metadata__":
            raise UnsupportedInput(
                f"expected a dtype that safetensors has ({', '.join(codes)}), got {x.dtype.name} "
                f"in {ascii(name)[:60]}; cast it"
            )
        start, end = end, end + x.nbytes
        place = {"shape": list(x.shape), "data_offsets": [start, end]}
        header[name] = {"dtype": codes[x.dtype.name], **place}
        body.append(x)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    if len(text) > HEADER_LIMIT:
        raise UnsupportedInput(f"expected a header of at most {HEADER_LIMIT} bytes; split the tree")
    with replacing(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for x in body:
            file.write(np.ascontiguousarray(x).reshape(-1).view(np.uint8))
    return 8 + len(text) + end


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The metadata of a file; {} where it has none, or where its header is none: load_safetensors
    says what is wrong with it."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(os.path.getsize(path), HEADER_LIMIT):
            return {}
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError):
            return {}
    found = header.get("__metadata__") if isinstance(header, dict) else None
    good = isinstance(found, dict) and all(isinstance(x, str) for x in found.values())
    return found if good else {}
