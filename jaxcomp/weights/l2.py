"""l2: grids, then weights, trained under a count of the bits that their file will take.

    minimise  loss(fn(params), fn(Q(params)))   where  bits of the codes = bits_per_weight

    code   c = w / 2e                          where |w| <= e       (T of section 3.2)
           c = sign(w) (1/2 + (|w| - e) / s)   elsewhere
    value  Q = s round(c)

of each weight w with a step s and an edge e, below which it becomes zero. In the count

    bits = - sum_i log2 p(round(c_i))     p(q) = (F(q + 1/2) - F(q - 1/2)) / N
    F(x) = sum_i K((x - c_i) / delta)     K(u) = (1 + sin(pi u / 2)) / 2, 0 below -1 and 1 above 1

each code rises as a ramp, not a step, so that both what is looked up, q, and what is counted, c_i,
have gradients (section 3.3). First steps and edges move, so that bits go to the weights that serve
the outputs most; then the weights move too, to what loses little and is cheap to write. Rounding
passes gradients as if it were not there.

Shi et al., Lossy and lossless (L^2) post-training model size compression, ICCV 2023. We differ:

- values are s round(c), not the inverse of c: a grid that integers of 8 bits hold; and with e > s/2
  they lie towards zero in their bins, as peaked densities want (Sullivan, Efficient scalar
  quantization of exponential and Laplacian random variables, 1996);
- q is the rounded code, with the gradient of c: the count is that of the file, to 0.1 %;
- delta is a share of the codes' spread; theirs, 1/64 of their range, an outlier can decide;
- the price of a bit rises and falls with how far the bits are above the target; theirs falls to a
  hundredth once they are below;
- the loss is that of the outputs, by `distil`, and two phases replace three pairs of them.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.lax import stop_gradient
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxcomp.base import UnsupportedInput
from jaxcomp.formats.integer import INT8
from jaxcomp.formats.layout import from_matrix, to_matrix, unmerge
from jaxcomp.measures.kl_nats import kl_nats
from jaxcomp.tree import join, leaves, map_where
from jaxcomp.weights.compress import Axes, compress
from jaxcomp.weights.distil import arrays_of, distil
from jaxcomp.weights.options import check_real
from jaxcomp.weights.rtn import rtn

GRID = INT8._replace(group=None)  # one step for each matrix
TOP = 127  # the largest level
MOST_BITS = 6.0  # beyond, steps are so fine that 127 of them do not span common weights
WIDTH = 0.2  # delta over the spread of the codes: 0.1 to 0.3 give one count, to 0.1 %
WIDEST = 0.5  # then a ramp reaches two bins, not three
SAMPLE = 1 << 20  # of more codes, every k-th is counted: shares come out to 0.1 % all the same
CODER, TABLE = 1.012, 8 * 90  # what jc.io adds to the entropy of a leaf: lanes; a table and heads
EDGE = 0.55  # e / s at first: half a step is rounding to nearest
RATES = {
    "values": 0.02,
    "steps": 0.02,
    "edges": 0.02,
}  # of Adam; values in steps, others in octaves
# The price follows the bits in proportion, e-fold for 0.1 bit, and in the long run.
GAIN, DRIFT = 10.0, 0.3
AT_LEAST, AT_MOST = 1e-3, 1e3  # steps in root mean squares of the weight, for the first search


class Moving(NamedTuple):
    """One weight in training, laid out as the codes of its leaf, and two numbers for each matrix.

    values  in steps of the start; steps, edges: log2 of s over that of the start, and of e / s
    """

    values: Float[Array, "*shape"]
    steps: Float[Array, "*matrices"]
    edges: Float[Array, "*matrices"]


def counted_bits(
    codes: Float[ArrayLike, "*shape"], *, width: float | jax.Array | None = None
) -> Float[Array, ""]:
    """Bits of the rounded codes under the shares of their own levels, with gradients to all codes.

    codes  not rounded; beyond -127 and 127 they count as these
    width  delta, above 0 and up to 0.5; by default a fifth of the standard deviation, at most 0.5

    The value is the entropy of the levels times the number of codes, within 0.1 %. When all codes
    grow together, the gradient is that of the entropy within 15 % from 1.5 bits per code on; at one
    bit, it is a third less. Of more than 2^20 codes a regular sample is counted.
    """
    codes = jnp.asarray(codes, jnp.float32).reshape(-1)
    c = codes[:: -(-codes.size // SAMPLE)]
    held = stop_gradient(c)
    width = jnp.minimum(WIDTH * held.std(), WIDEST) if width is None else width
    width = jnp.maximum(width, 1e-6)
    level = jnp.clip(jnp.round(held), -TOP, TOP)
    side = jnp.where(held >= level, 1, -1)  # where the nearest boundary of the bin lies
    u = jnp.minimum((0.5 - side * (c - level)) / width, 1.0)
    u = jnp.where(jnp.abs(held) > TOP, 1.0, u)
    own = (1 + jnp.sin(jnp.pi / 2 * u)) / 2  # the rest is counted beyond that boundary
    bin, bins = level.astype(jnp.int32) + TOP + 1, 2 * TOP + 3
    counts = jnp.zeros(bins).at[bin].add(own).at[bin + side].add(1 - own)
    # dF/dx at the boundaries, and dp/dq of each level.
    height = stop_gradient(jnp.pi / 4 * jnp.cos(jnp.pi / 2 * u) / width)
    heights = jnp.zeros(bins + 1).at[bin + (side > 0)].add(height)
    slopes = jnp.diff(heights)
    count = counts[bin] + (c - held) * slopes[bin]
    return -jnp.log2(count / c.size).mean() * codes.size


def codes_of(
    moving: Moving, scale: Float[Array, "*matrices"]
) -> tuple[Float[Array, "*shape"], Float[Array, "*matrices"]]:
    """(codes before they are rounded, steps as they are stored) of steps that began as `scale`."""
    step = scale * jnp.exp2(moving.steps)
    stored = step.astype(GRID.scale).astype(jnp.float32)
    step = step + stop_gradient(stored - step)
    u, edge = moving.values * (scale / step), jnp.exp2(moving.edges)  # both in steps
    far = jnp.sign(u) * (0.5 + jnp.abs(u) - edge)
    return jnp.clip(jnp.where(jnp.abs(u) <= edge, u / (2 * edge), far), -TOP, TOP), step


@jax.jit
def _bits_per_weight(moving, scales):
    """What the file takes for all the leaves; the codes of a leaf share a table."""
    codes = [codes_of(m, scales[path])[0] for path, m in moving.items()]
    bits = sum(CODER * counted_bits(c) + TABLE for c in codes)
    return bits / sum(c.size for c in codes)


def _begin(before, chosen, target):
    """(moving, scales) of the same steps, in root mean squares, for all, whose bits are those."""
    spread = {path: _spread(before[path], leaf) for path, leaf in chosen.items()}

    @jax.jit
    def begin(spread, factor):
        moving, scales = {}, {}
        for path, (w, rms, largest) in spread.items():
            scale = scales[path] = jnp.maximum(factor * rms, largest / TOP)
            edge = jnp.full_like(scale, math.log2(EDGE))
            moving[path] = Moving(w / scale, jnp.zeros_like(scale), edge)
        return moving, scales

    low, high = AT_LEAST, AT_MOST
    for _ in range(20):
        middle = math.sqrt(low * high)
        above = _bits_per_weight(*begin(spread, middle)) > target
        low, high = (middle, high) if above else (low, middle)
    return begin(spread, high)


def _spread(w, leaf):
    """(w laid out as the codes, its root mean square and its largest value for each matrix)."""
    matrix, place = to_matrix(w, leaf.layout.axes)
    w = from_matrix(matrix.astype(jnp.float32), place)
    inside = [axis for axis, size in enumerate(leaf.scales.shape) if size == 1]
    rms = jnp.sqrt((w**2).mean(inside, keepdims=True))
    return w, jnp.where(rms > 0, rms, 1.0), jnp.abs(w).max(inside, keepdims=True)


def _optimizer(moving, alone, together):
    """Adam at rates that fall to zero twice, as cosines do; the price climbs its gradient.

    Values stand still for the first steps, `alone`.
    """

    def adam(name):
        falling = [optax.cosine_decay_schedule(RATES[name], max(1, n)) for n in (alone, together)]
        falling[0] = optax.constant_schedule(0.0) if name == "values" else falling[0]
        return optax.adam(optax.join_schedules(falling, [alone]))

    labels = {"moving": dict.fromkeys(moving, Moving(*Moving._fields)), "price": "price"}
    each = {name: adam(name) for name in Moving._fields}
    return optax.multi_transform({**each, "price": optax.sgd(DRIFT)}, labels)


def _on_target(moving, scales, target):
    """All steps wider or finer by one factor, a few per cent, until the bits are the target."""

    def moved(by):
        return {path: m._replace(steps=m.steps + by) for path, m in moving.items()}

    low, high = -0.25, 0.25
    for _ in range(10):
        middle = (low + high) / 2
        above = _bits_per_weight(moved(middle), scales) > target
        low, high = (middle, high) if above else (low, middle)
    return moved(high)


def l2(
    fn: Callable[..., Any],
    params: Any,
    batches: Iterable[Any],
    *,
    bits_per_weight: float | int,
    stats: Mapping[str, Any] | None = None,
    axes: Axes | Callable[[str, Any], Axes] | None = None,
    where: Callable[[str, Any], bool] | None = None,
    steps: tuple[int, int] = (300, 300),
    loss: Callable[[Any, Any], jax.Array] = kl_nats,
    seed: int = 0,
) -> Any:
    """params with leaves of 8-bit integers whose file takes bits_per_weight on the average.

    fn, batches, loss, seed  as distil; stats, axes, where  as compress, and no statistic is needed
    bits_per_weight  of jc.io.save_weights for these leaves, codes and tables, within 1 %; what else
                     the tree holds comes on top, as does an index of some hundred bytes
    steps            of training, a pair: for the grids alone, and for grids and weights

    In memory a weight takes a byte: it is the file that is small. Raises UnsupportedInput for bits
    that tables and heads alone exceed, and where the loss was not finite.
    """
    batches = [batch if isinstance(batch, tuple) else (batch,) for batch in batches]
    check_real(0, MOST_BITS, bits_per_weight=bits_per_weight, advice="for more bits use rtn")
    if not batches:
        raise UnsupportedInput("expected batches, got none; pass a list of what fn takes")
    pair = isinstance(steps, Sequence) and len(steps) == 2
    if not pair or not all(isinstance(n, int) and n >= 0 for n in steps):
        raise UnsupportedInput(
            f"expected steps, a pair of whole numbers >= 0, got {steps!r:.60}; pass (300, 300), "
            "say, for the grids alone and for grids and weights"
        )
    before = dict(leaves(params))
    small = compress(params, rtn(GRID), stats=stats, axes=axes, where=where)
    chosen = {path: leaf for path, leaf in leaves(small) if leaf is not before[path]}
    least = TABLE * len(chosen) / sum(leaf.size for leaf in chosen.values())
    if bits_per_weight <= least:
        raise UnsupportedInput(
            f"expected bits_per_weight above {least:.3g}, which tables and heads of {len(chosen)} "
            f"leaves take alone, got {bits_per_weight}; raise it, or leave small weights out with "
            "where="
        )
    moving, scales = _begin(before, chosen, float(bits_per_weight))

    def build(moving, small):
        def each(path, leaf):
            codes, step = codes_of(moving[path], scales[path])
            rounded = codes + stop_gradient(jnp.round(codes) - codes)
            return unmerge(rounded * step, leaf.packed).astype(leaf.dtype)

        return map_where(each, small, lambda path, _: path in chosen)

    def penalty(state):
        bits = _bits_per_weight(state["moving"], scales)
        above = stop_gradient(bits) - bits_per_weight
        price = jnp.exp(stop_gradient(state["price"]) + jnp.clip(GAIN * above, -3, 3))
        # The second term is zero, and its gradient lets the price climb.
        return price * bits + (stop_gradient(state["price"]) - state["price"]) * above

    arrays, others = arrays_of((params, small))

    @jax.jit
    def first_loss(arrays, moving, *batch):
        params, small = join(arrays, others)
        return loss(fn(params, *batch), fn(build(moving, small), *batch))

    met = batches[: 1 if sum(steps) else None]  # without a step no other check meets them
    losses = jnp.stack([first_loss(arrays, moving, *batch) for batch in met])
    if not jnp.isfinite(losses).all():
        raise UnsupportedInput(
            f"expected a finite loss at the start, got {float(losses.sum())}; look for values in "
            "params and batches that are not finite"
        )
    state = distil(
        fn,
        # Errors fall fourfold with a bit, so at the best price a bit costs about the loss.
        {"moving": moving, "price": jnp.log(jnp.maximum(losses[0], 1e-30))},
        lambda state, small: build(state["moving"], small),
        batches,
        reference=params,
        rest=small,
        steps=sum(steps),
        optimizer=_optimizer(moving, *steps),
        loss=loss,
        penalty=penalty,
        seed=seed,
    )
    moving = _on_target(state["moving"], scales, bits_per_weight)

    def frozen(path, leaf):
        codes, step = codes_of(moving[path], scales[path])
        codes, step = jnp.round(codes).astype(leaf.codes.dtype), step.astype(GRID.scale)
        return dataclasses.replace(leaf, codes=codes, scales=step)

    return map_where(frozen, small, lambda path, _: path in chosen)
