"""bias_tuning: after compression, the small arrays that stayed floats are moved to make up for it.

    minimise over b    loss(fn(reference), fn(small with b)), the mean over batches

for the biases, and the gains of norms, of a tree whose weights are compressed. These cost next to
nothing in bytes, and no compressed leaf changes by a bit: rounding shifts and stretches what a
layer gives, on the average, and they shift and stretch it back.

Hubara et al., Improving post training neural quantization: layer-wise calibration and integer
programming, 2020, sections 3.4 and 3.5: the last step after AdaQuant. We differ: gains move like
biases, where the paper gathers new statistics for batch normalisation, which most models lack.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxcomp.base import UnsupportedInput
from jaxcomp.lift.call import named
from jaxcomp.tree import is_compressed, join, leaves, path_text
from jaxcomp.weights.distil import distil

RATE = 1e-2  # there are few of these, of about 1: slower serves less in some hundred steps


def bias_tuning(
    fn: Callable[..., Any],
    small: Any,
    batches: Iterable[Any],
    *,
    reference: Any,
    steps: int = 300,
    where: Callable[[str, Any], bool] | None = None,
    rate: float = RATE,
    optimizer: optax.GradientTransformation | None = None,
    **options: Any,
) -> Any:
    """small, with other values in its biases and gains; its compressed leaves are the same objects.

    reference  params of the float model, of the tree that small was made from
    where      (path, array) -> bool, asked for every float array that is not compressed; by default
               those of one axis. Gains that are stacked over layers have two: name them
    rate       of Adam at first; it falls to zero as a cosine does
    optimizer  in place of Adam
    fn, batches, steps and options (loss, penalty, project, seed) as distil, of what moves

    Raises UnsupportedInput where nothing is selected, and for other options.
    """
    if odd := set(options) - {"loss", "penalty", "project", "seed"}:
        raise UnsupportedInput(
            f"expected loss, penalty, project and seed as options, got {', '.join(sorted(odd))}; "
            "call jc.weights.distil for what is built otherwise"
        )
    select = where or (lambda path, x: x.ndim == 1)
    dense = {path: x for path, x in leaves(small) if _is_dense_float(x)}
    chosen = {path for path, x in dense.items() if select(path, x)}
    if not chosen:
        listed = ", ".join(f"{named(path)} {x.shape}" for path, x in dense.items()) or "none"
        raise UnsupportedInput(
            f"expected float arrays to tune, got none selected; there are {listed:.200}; name some "
            "with where="
        )

    def kept(inside):
        def each(path, x):
            return x if (path_text(path) in chosen) == inside else None

        return jax.tree_util.tree_map_with_path(each, small, is_leaf=is_compressed)

    moving, rest = kept(True), kept(False)
    moved = distil(
        fn,
        moving,
        join,
        batches,
        reference=reference,
        rest=rest,
        steps=steps,
        optimizer=optimizer or optax.adam(optax.cosine_decay_schedule(rate, max(1, steps))),
        **options,
    )
    return join(moved, rest)


def _is_dense_float(x):
    return not is_compressed(x) and hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)
