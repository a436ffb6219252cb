"""A run that goes on with more or fewer senders: what each of them owes is dealt out anew.

Every sender's own part becomes the mean of all: means over senders stay what they were, and so what
error feedback owes, and EF21's references with the mean that all share. Shards of a sum, as the
second half of compressed_mean keeps them, are laid end to end and cut anew. Totals keep their sum;
other counts, which have no mean, are those of the first sender. Moments in 8 or 4 bits are copied,
codes and scales of one sender after the other, and from the first again where there are more; other
codes that differ are refused. The losses are those of another number of senders: not the same to
the last bit.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxcomp.base import UnsupportedInput
from jaxcomp.kernels.adam8bit import Moment
from jaxcomp.optim.senders import PerSender, Shard, Total, is_own


def across(state: Any, like: Any) -> Any:
    """state with the shapes of `like`, which is optim.shapes(...) or a state of the new senders.

    What is the same for all senders is as it was; all lies where `like` says, and without shardings
    senders lie along one axis. UnsupportedInput for states of other methods or parameters.
    """
    structures = [jax.tree.structure(each) for each in (state, like)]
    if structures[0] != structures[1]:
        raise UnsupportedInput(
            f"expected a state like that of the new senders, {structures[1]}, got {structures[0]}; "
            "make both with one transformation"
        )

    def one(old, new):
        if is_own(old):
            return PerSender(jax.tree.map(_dealt, old.value, new.value, is_leaf=_is_marked))
        if old.shape != new.shape:
            raise _unlike(old, new)
        return _placed(old, new)

    return jax.tree.map(one, state, like, is_leaf=is_own)


def _is_marked(x: Any) -> bool:
    return isinstance(x, Shard | Total | Moment)


def _dealt(old: Any, new: Any) -> Any:
    """An array [senders, ...], a Shard, Total or Moment, for as many senders as new has."""
    if isinstance(old, Moment):
        return jax.tree.map(_copied, old, new)
    if isinstance(old, Total):
        return Total(_placed(_shared_out(old.value, new.value), new.value))
    if isinstance(old, Shard):
        return Shard(_placed(_cut(old.value, new.value), new.value))
    if old.shape[1:] != new.shape[1:]:
        raise _unlike(old, new)
    if old.dtype.itemsize == 1 and not (old == old[:1]).all():
        raise UnsupportedInput(
            f"expected arrays that have a mean, got codes {old.dtype}{old.shape} that differ "
            "between senders; go on with as many senders, or keep float32, as adam does"
        )
    floating = jnp.issubdtype(old.dtype, jnp.floating)
    mean = old.mean(0).astype(old.dtype) if floating else old[0]
    return _placed(jnp.broadcast_to(mean, new.shape), new)


def _copied(old: jax.Array, new: Any) -> jax.Array:
    if old.shape[1:] != new.shape[1:]:
        raise _unlike(old, new)
    return _placed(old[jnp.arange(new.shape[0]) % len(old)], new)


def _shared_out(old: jax.Array, new: Any) -> jax.Array:
    """Integers [senders, ...] of the same sum over senders, for as many as new has."""
    if old.shape[1:] != new.shape[1:]:
        raise _unlike(old, new)
    total, count = old.sum(0).astype(old.dtype), new.shape[0]
    first = jnp.arange(count).reshape(count, *[1] * total.ndim) < total % count
    return total // count + first.astype(old.dtype)


def _cut(old: jax.Array, new: Any) -> jax.Array:
    """Shards [senders, ..., size] of a vector, cut anew for as many senders as new has."""
    for each in (old, new):
        spec = getattr(getattr(each, "sharding", None), "spec", None) or (None,)
        if isinstance(spec[0], tuple) and len(spec[0]) > 1:  # each axis cuts another vector
            raise UnsupportedInput(
                f"expected senders along one axis, to cut shards {old.shape[1:]} anew, got "
                f"{spec[0]}; go on with as many senders"
            )
    (senders, *middle, size), (count, *others, length) = old.shape, new.shape
    # The two lots differ by the zeros that fill up the last shard.
    if middle != others or abs(senders * size - count * length) >= max(senders, count):
        raise _unlike(old, new)
    whole = jnp.moveaxis(old, 0, -2).reshape(*middle, senders * size)
    whole = whole[..., : count * length]
    filling = count * length - whole.shape[-1]
    whole = jnp.pad(whole, [(0, 0)] * len(middle) + [(0, filling)])
    return jnp.moveaxis(whole.reshape(*middle, count, length), -2, 0)


def _placed(x: jax.Array, like: Any) -> jax.Array:
    sharding = getattr(like, "sharding", None)
    return x if sharding is None else jax.device_put(x, sharding)


def _unlike(old: Any, new: Any) -> UnsupportedInput:
    return UnsupportedInput(
        f"expected an array that fits {new.shape}, got {old.shape}; begin anew with optim.init, or "
        "go on with as many senders"
    )
