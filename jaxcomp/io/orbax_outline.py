"""What Orbax needs to list the arrays of a checkpoint that it cannot read: names, shapes, dtypes.

For each leaf the metadata of a zarr array in OCDBT, as Orbax writes for its own, with one chunk,
which holds the name of this library. Its compressor is said to be zstd: whoever reads it gets an
error, and not zeros. Shardings stand in the file `_sharding`, as Orbax keeps them.
"""

import base64
import json
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore

from jaxcomp.io.shard_files import Leaf

PROCESS = "ocdbt.process_jaxcomp_{}"  # Orbax merges all ocdbt.process_* of a checkpoint into one
CHUNK = "jaxcomp"


async def write_outline(folder: Any, kind: str, leaves: list[Leaf], context: Any) -> None:
    """Into the folder of a checkpoint that is not final yet, as a part called `kind`."""
    path = f"{folder.as_posix().rstrip('/')}/{PROCESS.format(kind)}/"
    base = path if "://" in path else {"driver": "file", "path": path}
    store = await tensorstore.KvStore.open({"driver": "ocdbt", "base": base}, context=context)
    transaction = tensorstore.Transaction()
    for leaf in leaves:
        prefix = f"{leaf.name}/" if leaf.name else ""  # a tree that is one array has no name
        outline = {
            "chunks": [max(1, n) for n in leaf.shape],
            "compressor": {"id": "zstd", "level": 1},
            "dimension_separator": ".",
            "dtype": _zarr_name(leaf.dtype),
            "fill_value": None,
            "filters": None,
            "order": "C",
            "shape": list(leaf.shape),
            "zarr_format": 2,
        }
        place = ".".join("0" * len(leaf.shape)) or "0"
        store.with_transaction(transaction)[f"{prefix}.zarray"] = json.dumps(outline)
        store.with_transaction(transaction)[f"{prefix}{place}"] = CHUNK
    await transaction.commit_async()


def write_shardings(folder: Any, shardings: dict[str, jax.sharding.Sharding]) -> None:
    """{name: sharding}; of the kinds that Orbax has no words for nothing is said."""
    texts = {}
    for name, sharding in shardings.items():
        if isinstance(sharding, jax.sharding.NamedSharding):
            found = ocp.metadata.NamedShardingMetadata.from_jax_sharding(sharding)
        elif isinstance(sharding, jax.sharding.SingleDeviceSharding):
            found = ocp.metadata.SingleDeviceShardingMetadata.from_jax_sharding(sharding)
        else:
            continue
        key = base64.urlsafe_b64encode(name.encode()).decode()
        texts[key] = found.to_serialized_string()
    (folder / "_sharding").write_text(json.dumps(texts))


def _zarr_name(dtype: np.dtype) -> str:
    """What zarr calls a dtype, or tensorstore; for the few that neither knows the bytes."""
    if dtype.type.__module__ == "numpy":  # isbuiltin is 0 of a dtype that was copied or unpickled
        return dtype.str
    try:
        return tensorstore.dtype(dtype.name).name
    except (TypeError, ValueError):
        return f"|u{dtype.itemsize}"
