"""OSTQuant: rotations and scales between neighbouring weights, learned so that less is rounded off.

    W1 -> W1 O diag(s),   W2 -> diag(1 / s) O^T W2    wherever fn stays what it is

    minimise over all O and s    KL-Top(fn(params, batch), rounded fn(moved params, batch))

Whatever a scale is shared by should be of one size: then few levels are wasted. In floats the moved
params give what they gave; they are as many, and nothing is done at run time. Every method may
follow, on statistics of the moved params:

    moved = ostquant(fn, params, batches, weights=F.INT4_G32, activations="int4")
    stats = jc.observe(fn, moved, batches)
    small = compress(moved, activation(gptq(F.INT4_G32), "int4"), stats=stats)

Hu et al., OstQuant, arXiv:2501.13987, sections 3.2 and 3.3. We differ: O is O0 (I + S)^-1 (I - S)
of a free antisymmetric S (Cayley), so that Adam in a flat space trains it, where the paper steps
along the manifold; O0 is a Hadamard rotation and not eigenvectors times one; and rounding is not
taken to be constant by the gradient, equation (1) below.

Rounded values follow what they are made of, and errors the range of their group,

    d round(x) = dx + (round(x) - x) d log(range)                                               (1)

Without the second term nothing would say that a rotation shrinks an outlier.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.lax import stop_gradient
from jaxtyping import Array, Float

from jaxcomp.base import UnsupportedInput
from jaxcomp.formats import format as grids
from jaxcomp.formats.format import Format
from jaxcomp.formats.qtensor import read, store
from jaxcomp.formats.transformed import (
    ROTATION_KEY,
    activation_format,
    read_signs,
    transform,
)
from jaxcomp.kernels import hadamard as rotations
from jaxcomp.lift.fake_quantize import Rule, fake_quantize
from jaxcomp.lift.observe import observe
from jaxcomp.lift.symmetry import Symmetry
from jaxcomp.lift.symmetry import symmetries as symmetries_of
from jaxcomp.measures.kl_nats import kl_nats
from jaxcomp.tree import join, leaves
from jaxcomp.weights.distil import arrays_of, distil
from jaxcomp.weights.fold import apply, without_gains
from jaxcomp.weights.hadamard import SIGNS_KEY, random_signs

STEPS = 150  # the paper's
# Adam's. The paper's are 2e-2 and 3e-2; a language model of 260,000 weights came to a KL of 0.276
# and not 0.284 in as many steps.
ROTATION_RATE, SCALE_RATE = 1e-2, 3e-2
TOP = 1000  # likeliest outputs that the loss compares: the paper's
DECAY = 0.99  # of Adam's second moments: 150 steps are too few for an average over 1000

Where = Callable[[str, Any], bool]
_loss = functools.partial(kl_nats, top=TOP)


def ostquant(
    fn: Callable[..., Any],
    params: Any,
    batches: Iterable[Any],
    *,
    weights: Format | Rule | None,
    activations: str | Format | Rule | None = None,
    where: Where | None = None,
    online: Where | None = None,
    symmetries: Sequence[Symmetry] | None = None,
    steps: int = STEPS,
    rotation_rate: float = ROTATION_RATE,
    scale_rate: float = SCALE_RATE,
    loss: Callable[[Any, Any], jax.Array] = _loss,
    seed: int = 0,
) -> Any:
    """params moved along the symmetries of fn: fn(moved) is fn(params) to rounding.

    batches      as distil takes them
    weights      what weights will be rounded to: a Format, or a rule as fake_quantize takes it
    activations  "int4", "int8", a Format or a rule; None for weights only
    where        (path, leaf) -> bool: what will be rounded; by default every weight multiplied
    online       which of them jc.weights.hadamard will hold, rotating their inputs at run time. It
                 serves inputs that no rotation can be moved out of, those behind the gate of an MLP
    symmetries   by default all of jc.symmetries(fn, params, batch), which are found
                 sooner on a batch of one short sequence
    loss         (outputs in floats, outputs rounded) -> a scalar; by default outputs are logits

    The gains of RMS norms move into the weights behind them where those are rotated, and a table
    that is looked up and multiplied has to be two leaves for that. Deterministic for a seed.
    """
    if weights is None and activations is None:
        raise UnsupportedInput(
            "expected weights or activations to round, got neither; pass weights=jc.formats.INT4"
        )
    batches = [batch if isinstance(batch, tuple) else (batch,) for batch in batches]
    if not batches:
        raise UnsupportedInput("expected a batch, got none; pass a list of what fn takes")
    record = observe(fn, params, batches[:1], where=where, statistic=None)
    rounded = {path for path, seen in record.items() if seen.multiplied}
    turned = {path for path, leaf in leaves(params) if online and online(path, leaf)} & rounded
    if symmetries is None:
        symmetries = symmetries_of(fn, params, *batches[0])
    if not symmetries:
        raise UnsupportedInput(
            "expected symmetries of fn, got none; print jc.symmetries(fn, params, batch)"
        )
    reference, params = params, without_gains(params, symmetries)
    # Rotations come first: they ask for gains of one, which scales may then change again.
    found = sorted(symmetries, key=lambda symmetry: symmetry.kind == "scale")
    starts = [_start(symmetry) for symmetry in found]

    def moved(parameters: list[jax.Array], params: Any) -> Any:
        for symmetry, start, one in zip(found, starts, parameters, strict=True):
            factor = jnp.exp(one) if start is None else jnp.matmul(start, cayley(one), precision=_H)
            params = apply(params, symmetry, factor)
        return params

    student = _rounding(fn, weights, activations, turned, rounded - turned)

    def both(tagged, *batch):
        ((kind, params),) = tagged.items()
        return (student if kind == "rounded" else fn)(params, *batch)

    rates = {"scale": scale_rate, "orthogonal": rotation_rate}
    optimizer = optax.multi_transform(
        {
            kind: optax.adam(optax.cosine_decay_schedule(rate, max(1, steps)), b2=DECAY)
            for kind, rate in rates.items()
        },
        [symmetry.kind for symmetry in found],
    )
    still = [jnp.zeros(_shape(symmetry)) for symmetry in found]
    parameters = distil(
        both,
        still,
        lambda parameters, params: {"rounded": moved(parameters, params)},
        batches,
        reference={"plain": reference},
        rest=params,
        steps=steps,
        optimizer=optimizer,
        loss=loss,
        seed=seed,
    )
    arrays, others = arrays_of(params)
    found_arrays = jax.jit(lambda p, arrays: arrays_of(moved(p, join(arrays, others)))[0])
    return join(found_arrays(parameters, arrays), others)


_H = jax.lax.Precision.HIGHEST


def cayley(free: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """(I + S)^-1 (I - S) of S = (free - free^T) / 2: orthogonal, I at 0, smooth everywhere."""
    half = (free - free.T) / 2
    one = jnp.eye(len(free))
    return jnp.linalg.solve(one + half, one - half)


def _shape(symmetry: Symmetry) -> tuple[int, ...]:
    return (symmetry.size,) * (1 if symmetry.kind == "scale" else 2)


def _start(symmetry: Symmetry) -> np.ndarray | None:
    """Where a rotation starts; scales start from 1."""
    if symmetry.kind == "scale":
        return None
    signs = read_signs(random_signs(SIGNS_KEY, symmetry.size), symmetry.size)
    return np.asarray(signs)[:, None] * rotations.rotation(symmetry.size, ROTATION_KEY)


def _rounding(fn, weights, activations, online, plain):
    """fn with what will be rounded rounded, in the basis that it will be rounded in."""
    if isinstance(activations, str):
        activations = activation_format(activations)
    rules = [following(how) if isinstance(how, Format) else how for how in (weights, activations)]
    for chosen, (w, x) in ((plain, rules), (online, map(_rotated, rules))):
        if chosen:
            fn = fake_quantize(
                fn,
                weights=w,
                activations=x,
                where=lambda path, leaf, chosen=chosen: path in chosen,
            )
    return fn


def following(format: Format) -> Rule:
    """Rounding to a format, whose gradient is equation (1)."""

    def rule(x: Float[Array, "rows in"]) -> Float[Array, "rows in"]:
        grouped = grids.in_groups(x.astype(jnp.float32), format)
        still = stop_gradient(grouped)
        kept = read(*store(*grids.fit(still, format), format), format)
        _, near = grids.round_to(still, *kept, format)
        if format.zero is None:
            span = jnp.abs(grouped).max(-1, keepdims=True)
        else:
            span = jnp.maximum(grouped, 0).max(-1, keepdims=True)
            span += jnp.maximum(-grouped, 0).max(-1, keepdims=True)
        span = jnp.where(span > 0, span, 1.0)
        follows = grouped + (near - still) * (span / stop_gradient(span))
        # What follows adds its gradient and nothing else: the value is that of a packed leaf.
        out = near + (follows - stop_gradient(follows))
        rows = x.shape if format.group is None else (x.shape[0], -1)
        return out.reshape(rows)[:, : x.shape[1]].astype(x.dtype)

    return rule


def _rotated(rule: Rule | None) -> Rule | None:
    """The rule in the basis of jc.weights.hadamard."""
    if rule is None:
        return None
    return lambda x: _back(rule(_into(x)))


def _into(x: Float[Array, "rows in"]) -> Float[Array, "rows in"]:
    """x as jc.weights.hadamard rotates it."""
    return transform(x, None, random_signs(SIGNS_KEY, x.shape[1]), rotate=True)


def _back(x: Float[Array, "rows in"]) -> Float[Array, "rows in"]:
    signs = read_signs(random_signs(SIGNS_KEY, x.shape[1]), x.shape[1])
    return rotations.run(x, inverse=True, key=ROTATION_KEY) * signs
