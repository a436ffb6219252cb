"""train_widths: a store of 8 bits trained for several widths at once, whose views then lose less.

    minimise  sum_b share_b loss(fn(reference), fn(view of b bits))

over what the codes of the store are rounded from, and its scales. Each step is for one width, in
an order that the seed decides. Roundings pass gradients as if they were not there, but for values
that a view clips. What few bits ask for costs many bits: losses lie orders of magnitude apart, so

    share_b = (loss of b at the start) ** -balance

Nearly Lossless Adaptive Bit Switching (Double Rounding), arXiv:2502.01199, sections 3.2 and 3.3. We
differ: there each width has scales of its own, trained and stored; here they are those of least
squares, which `at_bits` finds in the store, in training as later: nothing is stored for them, and
untrained widths have them too. There the rate of each width's scales is adapted; here its share of
the loss is. Which width a layer gets (their section 3.4) is for `allocate`.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.lax import stop_gradient
from jaxtyping import Array, Float

from jaxcomp.base import UnsupportedInput
from jaxcomp.formats.layout import merged_axis, unmerge
from jaxcomp.formats.qtensor import QTensor
from jaxcomp.formats.transformed import Transformed
from jaxcomp.lift.call import named
from jaxcomp.lift.lift import lift
from jaxcomp.measures.kl_nats import kl_nats
from jaxcomp.tree import is_compressed, join, leaves, map_where, path_text
from jaxcomp.weights.distil import arrays_of, distil
from jaxcomp.weights.double_rounding import STORED, fitted_step, is_store
from jaxcomp.weights.options import check_real, check_whole

TOP = (1 << STORED - 1) - 1
RATE = 0.002  # of Adam, in units of TOP. Faster serves 2 bits little more, and 8 bits much less
BALANCE = 0.5  # between a sum that 2 bits decide, 0, and one in which all count alike, 1


class Moving(NamedTuple):
    """A store in training: codes / 127 before they are rounded, and log2 of its scales' growth."""

    values: Float[Array, "*shape"]
    scales: Float[Array, "*scales"]


class _Floats(NamedTuple):
    """Params of the float model, where a store in training could be."""

    params: Any


def _is_place(x):
    return x is None or is_compressed(x)


def _is_stored(path, leaf):
    if isinstance(leaf, Transformed) and isinstance(leaf.inner, QTensor):
        raise UnsupportedInput(
            f"{named(path)}: expected stores in their own basis, got one in another; train before "
            "it is changed"
        )
    return isinstance(leaf, QTensor) and is_store(leaf.format)


def _begin(leaf):
    return Moving(leaf.codes.astype(jnp.float32) / TOP, jnp.zeros(leaf.scales.shape))


def _wide(scales, codes, axis):
    """Scales, one for each code along the packed axis."""
    return jnp.repeat(scales, codes.shape[axis] // scales.shape[axis], axis)


def _store_of(moving, held, axis):
    """(codes, scales) of the store as floats, straight through."""
    scales = held.astype(jnp.float32) * jnp.exp2(moving.scales)
    scales = _through(scales, scales.astype(held.dtype).astype(jnp.float32))
    grown = _wide(jnp.exp2(moving.scales), moving.values, axis)
    u = jnp.clip(moving.values * TOP / grown, -TOP - 1, TOP)
    return _through(u, jnp.round(u)), scales


def view(
    moving: Moving, held: Array, drop: float | Float[Array, ""], like: QTensor
) -> Float[Array, "*weight"]:
    """The weight as `at_bits` has it where codes of the store are divided by `drop`, 2^(8 - b).

    held is what scales were at the start; like says how the store is laid out.
    """
    axis = merged_axis(like.packed)
    stored, scales = _store_of(moving, held, axis)
    u, half = stored / drop, (TOP + 1) / drop
    codes = jnp.clip(_through(u, jnp.round(u)), -half, half - 1)
    step = fitted_step(stored, codes, scales.shape, axis, drop)
    scales = scales * jnp.where(drop == 1, 1.0, stop_gradient(step))
    scales = _through(scales, scales.astype(held.dtype).astype(jnp.float32))
    dense = codes * _wide(scales, codes, axis)
    dense = jax.lax.slice_in_dim(dense, 0, like.layout.size_in, axis=codes.ndim + axis)
    return unmerge(dense, like.packed).astype(like.dtype)


def _through(x, rounded):
    """rounded, with the gradient of x."""
    return x + stop_gradient(rounded - x)


def train_widths(
    fn: Callable[..., Any],
    store: Any,
    batches: Iterable[Any],
    *,
    reference: Any,
    bits: Sequence[int] = (2, 3, 4, 8),
    steps: int = 300,
    rate: float = RATE,
    balance: float = BALANCE,
    loss: Callable[[Any, Any], jax.Array] = kl_nats,
    seed: int = 0,
) -> Any:
    """store, trained so that its views at each of `bits` give what the float model gives.

    store      a tree that `double_rounding` compressed; what else it holds stays as it is
    reference  params of the float model
    rate       of Adam at first, in units of the largest code; it falls to zero as a cosine does
    balance    of shares; more keeps 8 bits nearer to what they were, less serves 2 bits more
    fn, batches, steps, loss, seed  as distil

    The result has the bytes of the store: the same formats, other codes and scales.
    """
    batches = [batch if isinstance(batch, tuple) else (batch,) for batch in batches]
    some = bits if isinstance(bits, Sequence) and not isinstance(bits, str) else ()
    if not some or not batches:
        raise UnsupportedInput(
            f"expected bits, a tuple of some from 2 to 8, and batches, got {bits!r:.60} and "
            f"{len(batches)} batches; pass one or more of each, bits=(4,) say"
        )
    for each in bits:
        check_whole(2, STORED, bits=each, advice="a view has no others")
    check_real(0, rate=rate, balance=balance, advice="the defaults serve")
    stores = {path: leaf for path, leaf in leaves(store) if _is_stored(path, leaf)}
    if not stores:
        raise UnsupportedInput(
            "expected leaves of signed integers of 8 bits, got none; compress with "
            "jc.weights.double_rounding() first"
        )
    moving = {path: _begin(leaf) for path, leaf in stores.items()}
    held = {path: leaf.scales for path, leaf in stores.items()}
    rest = map_where(lambda *_: None, store, lambda path, _: path in stores)
    rest, others = arrays_of(rest)

    def run(params, rest, held, drop, share, *batch):
        """What fn gives, and the share of its loss."""
        if isinstance(params, _Floats):
            return fn(params.params, *batch), share

        def each(path, x):
            path = path_text(path)
            if path not in stores:
                return x
            return view(params[path], held[path], drop, stores[path])

        rest = join(rest, others)
        whole = jax.tree_util.tree_map_with_path(each, rest, is_leaf=_is_place)
        return fn(whole, *batch), share

    drops = [jnp.float32(1 << STORED - b) for b in bits]

    arrays, still = arrays_of(reference)

    @jax.jit
    def first_loss(arrays, moving, *given):
        aim, _ = run(_Floats(join(arrays, still)), *given)
        return loss(aim, lift(run)(moving, *given)[0])

    found = [first_loss(arrays, moving, rest, held, drop, 1.0, *batches[0]) for drop in drops]
    found = [jnp.maximum(x, 1e-30) for x in found]
    shares = [(x / max(found)) ** -balance for x in found]
    moving = distil(
        run,
        moving,
        lambda moving: moving,
        [
            (rest, held, drop, share, *batch)
            for batch in batches
            for drop, share in zip(drops, shares, strict=True)
        ],
        reference=_Floats(reference),
        steps=steps,
        optimizer=optax.adam(optax.cosine_decay_schedule(rate, max(1, steps))),
        loss=lambda aim, out: loss(aim[0], out[0]) * out[1],
        seed=seed,
    )

    def stored(path, leaf):
        codes, scales = _store_of(moving[path], leaf.scales, merged_axis(leaf.packed))
        codes, scales = codes.astype(leaf.codes.dtype), scales.astype(leaf.scales.dtype)
        return dataclasses.replace(leaf, codes=codes, scales=scales)

    return map_where(stored, store, lambda path, _: path in stores)
