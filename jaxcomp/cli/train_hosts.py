"""Hosts that train together: how they meet, what they must agree on, and who writes.

Every host runs the same program on its own devices (jax.distributed). What one host decides by
itself must be the same everywhere, or the others wait for ever: so they compare, and fail together.
"""

import argparse
import zlib
from collections.abc import Sequence
from typing import Any

from jaxcomp.base import JaxcompError, UnsupportedInput

AUTO = "auto"
# The others wait while the first host counts tables, which takes minutes.
LONGEST_WAIT_SECONDS = 3600
FORM = "ADDRESS:PORT COUNT INDEX, as in 10.0.0.1:8476 2 0, or auto"


def add(parser: argparse.ArgumentParser) -> None:
    """The argument."""
    parser.add_argument(
        "--hosts",
        nargs="+",
        default=(),
        metavar="WHERE",
        help="share every batch among hosts: ADDRESS:PORT of the first, how many there are, and "
        "which one this is, from 0; or auto on TPU pods, Slurm and other clusters that jax knows",
    )


def join(where: Sequence[str]) -> None:
    """Meet the other hosts; where is the value of --hosts, () for a host alone.

    Call it before anything that jax computes. Raises UnsupportedInput for what is not FORM, and
    JaxcompError where hosts do not find each other.
    """
    if not where:
        return
    options = _options(where)
    import jax

    try:
        jax.distributed.initialize(**options)
    except (RuntimeError, ValueError) as error:
        raise JaxcompError(f"--hosts {' '.join(where)}: {error}; expected {FORM}") from error


def _options(where: Sequence[str]) -> dict[str, Any]:
    if list(where) == [AUTO]:
        return {}
    if len(where) == 3 and all(text.isdecimal() for text in where[1:]):
        address, count, index = where[0], int(where[1]), int(where[2])
        name, _, port = address.rpartition(":")
        if name and port.isdecimal() and index < count:
            # Else jax asks the machine's cluster, if any, for more than it was told.
            known = {"cluster_detection_method": "deactivate"}
            return known | {
                "coordinator_address": address,
                "num_processes": count,
                "process_id": index,
            }
    raise UnsupportedInput(f"expected --hosts {FORM} (an index below the count), got {where}")


def is_first() -> bool:
    """Whether this host prints and writes for all."""
    import jax

    return jax.process_index() == 0


def agree(**values: Any) -> None:
    """Raise JaxcompError, on every host, unless all call it with the same values."""
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return
    mine = np.asarray([zlib.crc32(repr(value).encode()) for value in values.values()], np.uint32)
    every = multihost_utils.process_allgather(mine)  # u32[hosts, values]
    same = (every == every[0]).all(0)
    if different := [
        name.replace("_", " ") for name, ok in zip(values, same, strict=True) if not ok
    ]:
        raise JaxcompError(
            f"expected hosts to share their {', '.join(different)}; start them by one command line "
            "but for the index, with the same photos, and in a folder that all of them see"
        )


def wait(event: str) -> None:
    """Until all hosts are here. event: a name of its own for each time."""
    from orbax.checkpoint import multihost

    multihost.sync_global_processes(f"jaxcomp {event}", timeout=LONGEST_WAIT_SECONDS)
