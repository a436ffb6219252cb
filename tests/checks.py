"""The laws of jaxcomp/base.py as code. A test of a method calls the check of its folder.

Every check asserts one sentence of the law, on the arguments it is given, and returns what it
made, so that a test can go on and look at it.
"""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.base import Codec, Payload
from jaxcomp.coding import Stream, Tables, decode, encode, from_bytes, is_finished, pop, to_bytes

# Symbols drawn from their tables, at precision 16: what a 32-bit state and 16-bit words cost.
DRAWN = 1.003
# Any sequence at all: the last symbol of a skewed table costs this much more than its ideal.
WORST = 1.05
LANE_BITS = 32


def check_tables(tables: Tables) -> None:
    """Integers that sum to 2**precision in every row, each at least 1, laid end to end."""
    entries = np.asarray(tables.entries)
    assert entries.dtype == np.uint32
    frequencies = (entries >> 16).astype(np.int64) + 1
    starts = (entries & 0xFFFF).astype(np.int64)
    assert (frequencies.sum(axis=-1) == 1 << tables.precision).all()
    np.testing.assert_array_equal(starts[:, 0], 0)
    np.testing.assert_array_equal(starts[:, 1:], frequencies.cumsum(axis=-1)[:, :-1])


def check_round_trip(
    tables: Tables, symbols: np.ndarray, index: np.ndarray | None = None, **options: Any
) -> Stream:
    """decode(encode(symbols)) == symbols, through bytes too, and the stream ends where it began."""
    symbols, index = _arrays(symbols, index)
    stream = encode(tables, symbols, index, **options)
    for same in (stream, from_bytes(to_bytes(stream))):
        decoded = decode(tables, same, index, shape=symbols.shape)
        np.testing.assert_array_equal(decoded, symbols)
        decoded, rest = pop(same, tables, index, shape=symbols.shape)
        np.testing.assert_array_equal(decoded, symbols)
        assert is_finished(rest)
    return stream


def _arrays(symbols: np.ndarray, index: np.ndarray | None) -> tuple[jax.Array, jax.Array | None]:
    return jnp.asarray(symbols), None if index is None else jnp.asarray(index)


def check_rate(
    tables: Tables,
    symbols: np.ndarray,
    index: np.ndarray | None = None,
    *,
    factor: float,
    **options,
) -> float:
    """Words and heads cost at most factor * -sum(log2 p) + 32 bits per lane; returns the ratio.

    factor is DRAWN for symbols drawn from the tables at precision 16, WORST for any sequence.
    """
    row = 0 if index is None else np.asarray(index)
    column = np.asarray(symbols) - np.asarray(tables.offset)[row]
    frequencies = (np.asarray(tables.entries)[row, column] >> 16).astype(np.float64) + 1
    ideal_bits = (tables.precision - np.log2(frequencies)).sum()
    stream = encode(tables, *_arrays(symbols, index), **options)
    bits = 16 * int(np.sum(stream.size)) + LANE_BITS * stream.head.size
    assert bits <= factor * ideal_bits + LANE_BITS * stream.head.size, (
        f"{bits} bits for an ideal of {ideal_bits:.0f} and {stream.head.size} lanes"
    )
    return bits / ideal_bits


def check_codec(codec: Codec, image: np.ndarray, **options: Any) -> tuple[np.ndarray, Payload]:
    """decode(p, encode(p, x)) == apply(p, x).x_hat, bit for bit; returns (x_hat, payload)."""
    params = codec.init()
    payload = codec.encode(params, image, **options)
    shaped = Payload({**payload.header, "shape": list(image.shape)}, payload.sections)
    decoded = np.asarray(codec.decode(params, shaped))
    expected, bits = codec.apply(params, image, **options)
    assert decoded.dtype == np.uint8 and decoded.shape == image.shape
    np.testing.assert_array_equal(decoded, np.asarray(expected))
    assert np.isfinite(bits) and bits > 0
    return decoded, payload


def check_measure(measure: Callable[..., jax.Array], *arguments: np.ndarray) -> jax.Array:
    """One float32 per measurement, the same under jit, traced once for one shape."""
    value = measure(*arguments)
    assert value.dtype == jnp.float32
    traced_once = jax.jit(chex.assert_max_traces(measure, n=1))
    np.testing.assert_allclose(traced_once(*arguments), value, rtol=1e-5)
    traced_once(*(argument[::-1] for argument in arguments))
    return value
