"""plan: which quality of each chunk to send, so that all are there in time.

For each chunk in turn, the finest level at which it and all that follow would arrive before the
deadline; where there is none, what arrives first. Liu et al., CacheGen, SIGCOMM 2024, section 5.3.
Text that the receiver computes again loses nothing, and so comes before every level.

A plan holds while the bandwidth does. When it changes, plan the rest again:
plan(nbytes[done:], bandwidth, deadline - elapsed).
"""

from typing import Any

import numpy as np
from jaxtyping import Int

from jaxcomp.base import UnsupportedInput


def plan(
    nbytes: Any, bandwidth: float, deadline: float, *, text_seconds: Any = None
) -> Int[np.ndarray, " chunks"]:
    """The level of each chunk; the number of levels stands for its text.

    nbytes [chunks, levels], finest first; bandwidth in bytes per second, deadline in seconds from
    now. text_seconds [chunks]: to send a chunk's text and compute its keys and values; None: never.
    """
    nbytes = np.asarray(nbytes, np.float64)
    if nbytes.ndim != 2 or not nbytes.shape[1] or not (nbytes > 0).all():
        raise UnsupportedInput(
            f"expected bytes [chunks, levels], all above 0, got an array {nbytes.shape}"
        )
    if not 0 < bandwidth < np.inf or np.isnan(deadline):
        raise UnsupportedInput(
            f"expected bytes per second above 0 and seconds, got {bandwidth} and {deadline}; to "
            "wait without a bandwidth is no plan"
        )
    seconds = nbytes / bandwidth
    order = list(range(nbytes.shape[1]))
    if text_seconds is not None:
        text = np.asarray(text_seconds, np.float64)
        if text.shape != nbytes.shape[:1] or not (text >= 0).all():
            raise UnsupportedInput(
                f"expected seconds for the text of each of {len(nbytes)} chunks, got {text.shape}"
            )
        seconds = np.concatenate([seconds, text[:, None]], 1)
        order = [nbytes.shape[1], *order]
    rest = np.cumsum(seconds[::-1], 0)[::-1]  # [chunks, levels]: from this chunk on
    # Sums of the same seconds in another order differ in their last bits.
    levels, left = np.zeros(len(nbytes), np.int32), deadline + 1e-9 * abs(deadline)
    for chunk, cost in enumerate(seconds):
        in_time = [level for level in order if rest[chunk, level] <= left]
        levels[chunk] = in_time[0] if in_time else int(cost.argmin())
        left -= cost[levels[chunk]]
    return levels
