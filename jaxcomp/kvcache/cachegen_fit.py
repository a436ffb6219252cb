"""The model of cachegen, from keys and values: bins, means, weights of the token before, tables.

Any model gives back the codes exactly; this one is for few bits at a small error of attention. An
error of a value counts as it is. One of e in a channel of a key moves the score of a query by q e,
and the output by as much in deviations of the values. So with bins of values in proportion to the
deviation of their layer, those of keys are to rms(q) as 1: the error that a bit saves is then the
same in all channels (reverse water-filling: Cover and Thomas, section 10.3.3).
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from jaxcomp.base import UnsupportedInput
from jaxcomp.kvcache.cachegen_model import (
    CODE_LIMIT,
    MEAN_LIMIT,
    MEANS,
    OCTAVE,
    STEP_LIMIT,
    WEIGHTS,
    Model,
    bin_sizes,
    left_of,
    quantize_layer,
    scales,
)

# What a bin of keys is to one of values where no queries say it. rms(q) std(k), which it stands
# for, is 2 in MiniLM with heads of 32 and 15 in stories260K with heads of 8.
KEYS = 0.25
# A channel that these queries hardly read may be read by others: four times the bin of the mean.
LEAST_QUERY = 0.25


def fit_layer(
    x: Float[np.ndarray, "tokens channels"], fine: Float[np.ndarray, " channels"], chunk: int
) -> Model:
    """The model of one layer's keys or values, i32[channels] each, of bins near `fine`."""
    # Codes of what is fitted lie well inside their limit; what is 0 all over has some bin.
    largest = np.abs(x).max(0)
    least = np.where(largest > 0, largest * (4 / CODE_LIMIT), 1.0)
    step = np.rint(OCTAVE * np.log2(np.maximum(fine, least)))
    step = np.clip(step, -STEP_LIMIT, STEP_LIMIT).astype(np.int32)
    middle = x.mean(0)
    mean = np.rint(middle / bin_sizes(step).astype(np.float64) * MEANS)
    mean = np.clip(mean, -MEAN_LIMIT, MEAN_LIMIT).astype(np.int32)
    model = Model(step, mean, _weights(x - middle), np.zeros_like(step))
    left = left_of(model.weight, quantize_layer(model, x), chunk)
    return model._replace(scale=scales(left))


def units(
    x: Float[np.ndarray, "tokens channels"], queries: Float[np.ndarray, " channels"] | float | None
) -> Float[np.ndarray, " channels"]:
    """The bins that count as 1: of values (None) the deviation of their layer; of keys what does as
    much, by the root mean squares of what multiplies each channel, or a share of the deviation."""
    if queries is None or isinstance(queries, float):
        share = 1.0 if queries is None else queries
        return np.full(x.shape[1], share * np.sqrt(x.var(0).mean()))
    least = LEAST_QUERY * np.sqrt(np.square(queries).mean())
    return 1 / np.maximum(queries, max(least, np.finfo(np.float32).tiny))


def query_sizes(queries: Any, keys: Any) -> Float[np.ndarray, "layers channels"]:
    """Root mean squares of queries [layers, tokens, query heads, size] for each channel of keys."""
    layers, _, heads, size = keys.shape
    fits = queries.ndim == 4 and (queries.shape[0], queries.shape[3]) == (layers, size)
    if not fits or not queries.shape[1] or queries.shape[2] % heads:
        raise UnsupportedInput(
            f"expected queries [{layers}, tokens, a multiple of {heads}, {size}] for keys "
            f"{keys.shape}, got {queries.shape}"
        )
    q = np.asarray(queries, np.float64).reshape(*queries.shape[:2], heads, -1, size)
    return np.sqrt(np.square(q).mean((1, 3))).reshape(layers, -1)


def _weights(x):
    """Eighths of the token before that predict a token best, 0 to 8."""
    before, after = x[:-1], x[1:]
    power = np.einsum("tc,tc->c", before, before)
    ratio = np.einsum("tc,tc->c", before, after) / np.where(power > 0, power, 1)
    return np.clip(np.rint(WEIGHTS * ratio), 0, WEIGHTS).astype(np.int32)
