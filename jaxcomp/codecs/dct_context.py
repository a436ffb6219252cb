"""What is known when a coefficient is coded, and which table that chooses. All of it is int32.

Coefficients are coded plane after plane: one frequency of one channel, for all cells at once. For
each coefficient FEATURES sums of magnitudes that are already known are taken: of lower frequencies
of its cell, of lower frequencies of the cells around, of the same and nearby frequencies of the
channels before. A network of one hidden layer in integers turns their logarithms into a class 0 ..
CLASSES - 1 of expected size; zone (channel, low or high frequency, mean) and class are the table.

Widths: features <= 96 and weights < 2**12 of 33 inputs give |sums| < 2**24; the hidden layer is
limited to 2**15 - 1, so that with second weights < 2**11 and 24 units sums stay below 2**31.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int32, UInt8

from .dct_symbols import EDGES

CHANNELS, FREQUENCIES = 3, 256
PLANES = CHANNELS * FREQUENCIES
CLASSES = 56
ZONES = 6
KINDS = 8
HIDDEN = 24
CERTAIN = ZONES * CLASSES  # the table in which 0 has probability 1: absent cells
LARGEST_KNOWN = 63  # magnitudes are limited to this before they are summed
HIDDEN_BITS = 10
SECOND_BITS = 8

# Frequencies from low to high, by diagonals from the middle outwards.
FREQUENCY_ORDER = sorted(
    ((u, v) for u in range(16) for v in range(16)), key=lambda p: (p[0] + p[1], max(p), p[0])
)
_RANK = {p: i for i, p in enumerate(FREQUENCY_ORDER)}

# One feature per line: (channel: 0 own, 1 Y, 2 U; du, dv; cells: own, beside, above, diagonal).
_OWN, _BESIDE, _ABOVE, _DIAGONAL = range(4)
_FEATURES = (
    [(0, -1, 0, _OWN)],
    [(0, 0, -1, _OWN)],
    [(0, -1, -1, _OWN)],
    [(0, -2, 0, _OWN)],
    [(0, 0, -2, _OWN)],
    [(0, 1, -1, _OWN)],
    [(0, -1, 1, _OWN)],
    [(0, *d, _OWN) for d in ((-2, -1), (-1, -2), (-2, 1), (1, -2), (-2, -2))],
    [
        (0, *d, _OWN)
        for d in ((-3, 0), (0, -3), (-3, 1), (1, -3), (-3, -1), (-1, -3), (-4, 0), (0, -4))
    ],
    [(0, -1, 0, _BESIDE)],
    [(0, -1, 0, _ABOVE)],
    [(0, 0, -1, _BESIDE)],
    [(0, 0, -1, _ABOVE)],
    [(0, *d, c) for d in ((-1, -1), (1, -1), (-1, 1)) for c in (_BESIDE, _ABOVE)],
    [(0, -1, 0, _DIAGONAL), (0, 0, -1, _DIAGONAL)],
    [(0, *d, c) for d in ((-2, 0), (0, -2)) for c in (_BESIDE, _ABOVE)],
    [(1, 0, 0, _OWN)],
    [(1, 1, 0, _OWN), (1, 0, 1, _OWN)],
    [(1, -1, 0, _OWN), (1, 0, -1, _OWN)],
    [(1, 0, 0, _BESIDE), (1, 0, 0, _ABOVE)],
    [(1, 1, 1, _OWN), (1, 2, 0, _OWN), (1, 0, 2, _OWN)],
    [(2, 0, 0, _OWN)],
    [(2, 1, 0, _OWN), (2, 0, 1, _OWN)],
    [(2, -1, 0, _OWN), (2, 0, -1, _OWN)],
    [(2, 0, 0, _BESIDE), (2, 0, 0, _ABOVE)],
)
FEATURES = len(_FEATURES)
_KNOWN = np.minimum(EDGES, LARGEST_KNOWN).astype(np.uint8)


def _coding_order():
    """Planes: for each channel the frequencies from low to high, its means (u = v = 0) last."""
    ranks = [u * 16 + v for u, v in FREQUENCY_ORDER[1:]] + [0]
    return np.array([c * FREQUENCIES + r for c in range(CHANNELS) for r in ranks], np.int32)


CODING_ORDER = _coding_order()


def _terms():
    """Planes [PLANES, terms] to look at (PLANES: none), and for each term its cells and feature."""
    flat = [(f, term) for f, terms in enumerate(_FEATURES) for term in terms]
    planes = np.full((PLANES, len(flat)), PLANES, np.int32)
    position = np.empty(PLANES, np.int64)
    position[CODING_ORDER] = np.arange(PLANES)
    for plane in range(PLANES):
        channel, u, v = plane // 256, plane // 16 % 16, plane % 16
        for t, (_, (source, du, dv, _)) in enumerate(flat):
            # Means come last: they look at the frequencies above them instead of below.
            sign = -1 if u == v == 0 and source == 0 else 1
            other = channel if source == 0 else source - 1
            a, b = u + sign * du, v + sign * dv
            if 0 <= a < 16 and 0 <= b < 16:
                known = other * 256 + a * 16 + b
                if position[known] < position[plane] and (source == 0 or other < channel):
                    planes[plane, t] = known
    return planes, np.array([t[3] for _, t in flat]), np.array([f for f, _ in flat])


TERM_PLANES, TERM_CELLS, TERM_FEATURE = _terms()
GROUP = np.array(
    [p // 256 + 3 * (p % 256 == 0) for p in range(PLANES)], np.int32
)  # whose weights: the channel's, or the channel's for means
ZONE = np.array(
    [
        (4 + (p > 0)) if p % 256 == 0 else 2 * (p >= 256) + (p // 16 % 16 + p % 16 >= 4)
        for p in range(PLANES)
    ],
    np.int32,
)


class Network(NamedTuple):
    """The integers that choose classes; they are part of the format.

    first         i32[6, HIDDEN, FEATURES + KINDS], by group
    plane_bias    i32[PLANES, HIDDEN]
    step_weight   i32[6, HIDDEN]
    second        i32[6, HIDDEN]
    second_bias   i32[PLANES]
    """

    first: Int32[Array, "6 hidden inputs"]
    plane_bias: Int32[Array, "planes hidden"]
    step_weight: Int32[Array, "6 hidden"]
    second: Int32[Array, "6 hidden"]
    second_bias: Int32[Array, " planes"]


def logarithm(x: Int32[Array, "*any"]) -> Int32[Array, "*any"]:
    """8 log2(1 + x), linear between powers of two, rounded down; x < 2**27."""
    x = x + 1
    e = 31 - lax.clz(x)
    return 8 * e + ((x << 3) >> e) - 8


def no_maps(capacity: int) -> UInt8[Array, "4 maps capacity"]:
    """Nothing is known yet."""
    return jnp.zeros((4, PLANES + 1, capacity), jnp.uint8)


def learn(maps, plane, symbols, neighbours):
    """The maps after `symbols` u8[capacity] of a plane became known."""
    own = jnp.asarray(_KNOWN)[symbols]
    around = jnp.concatenate([own, jnp.zeros(1, jnp.uint8)])[neighbours]
    new = jnp.stack(
        [own, around[0] + around[1], around[2] + around[3], around[4:].sum(0, jnp.uint8)]
    )
    return lax.dynamic_update_slice(maps, new[:, None], (0, plane, 0))


def features(maps, plane) -> Int32[Array, "features capacity"]:
    """Logarithms of the sums of known magnitudes that matter for a plane."""
    rows = maps[TERM_CELLS, jnp.asarray(TERM_PLANES)[plane]].astype(jnp.int32)
    sums = [
        rows[(start := int(np.searchsorted(TERM_FEATURE, f))) : start + len(_FEATURES[f])].sum(0)
        for f in range(FEATURES)
    ]
    return logarithm(jnp.stack(sums))


def classify(network: Network, known, plane, kinds, log_step) -> Int32[Array, " capacity"]:
    """Table of each coefficient of a plane, from its features i32[FEATURES, capacity].

    kinds: i32[2, capacity], the mode of a cell and its level in the hierarchy of means.
    """
    group = jnp.asarray(GROUP)[plane]
    kind = kinds[group // 3]
    inputs = jnp.concatenate([known, (kind == jnp.arange(KINDS)[:, None]).astype(jnp.int32)])
    hidden = jnp.dot(network.first[group], inputs, preferred_element_type=jnp.int32)
    bias = network.plane_bias[plane] + network.step_weight[group] * log_step
    hidden = jnp.clip(hidden + bias[:, None], 0, (1 << 15) - 1)
    size = (hidden * network.second[group][:, None]).sum(0) + network.second_bias[plane]
    size = jnp.clip(size >> (HIDDEN_BITS + SECOND_BITS), 0, CLASSES - 1)
    return jnp.asarray(ZONE)[plane] * CLASSES + size
