"""What caches refuse, by name."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxcomp.base import CapacityError, UnsupportedInput


def check_counts(least: int = 1, **counts: Any) -> None:
    """UnsupportedInput for what is no int of at least `least`."""
    for name, number in counts.items():
        if type(number) is not int or number < least:
            kind = "a positive int" if least == 1 else f"an int of at least {least}"
            raise UnsupportedInput(
                f"expected {name} to be {kind}, got {number!r}; a cache has static shapes"
            )


def check_init(batch: int, heads: int, size: int, slots: int, dtype: Any = jnp.float32) -> None:
    check_counts(batch=batch, heads=heads, size=size, slots=slots)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise UnsupportedInput(
            f"expected keys and values of a floating dtype, got {dtype}; pass dtype=jnp.bfloat16, "
            "say, which is what they come in"
        )


def check_array(name: str, x: Any) -> None:
    """UnsupportedInput for what is no array of floats."""
    if not hasattr(x, "ndim") or not jnp.issubdtype(x.dtype, jnp.floating):
        got = getattr(x, "dtype", type(x).__name__)
        raise UnsupportedInput(f"expected {name} to be an array of floats, got {got}; cast it")


def check_tokens(
    k: Any,
    v: Any,
    lengths: Any,
    batch: int,
    heads: int,
    size: int,
    dtype: Any,
    slots: int | None = None,
) -> jax.Array:
    """lengths, all tokens where they are not given. UnsupportedInput for what does not fit, and
    CapacityError for tokens that can have no room in `slots`; None is for caches that drop some."""
    expected = (batch, "tokens", heads, size)
    for name, x in (("k", k), ("v", v)):
        check_array(name, x)
        fits = x.ndim == 4 and (x.shape[0], x.shape[2], x.shape[3]) == (batch, heads, size)
        if not fits or x.shape != k.shape or not x.shape[1]:
            raise UnsupportedInput(
                f"expected {name} {expected}, got {x.shape}; keys and values are [batch, tokens, "
                "heads, size], as init was told"
            )
        if x.dtype != dtype:
            raise UnsupportedInput(
                f"expected {name} of {dtype}, as init was told, got {x.dtype}; cast it, or pass "
                f"dtype={x.dtype} to init"
            )
    if lengths is None:
        if slots is not None and k.shape[1] > slots:
            raise CapacityError(
                f"expected at most {slots} tokens, got {k.shape[1]}; build the cache with more "
                "slots, or pass lengths= if the rest is padding"
            )
        return jnp.full(batch, k.shape[1], jnp.int32)
    lengths = jnp.asarray(lengths)
    if lengths.shape != (batch,) or not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise UnsupportedInput(
            f"expected lengths i32[{batch}], got {lengths.dtype}{list(lengths.shape)}; one for "
            "each sequence"
        )
    return jnp.clip(lengths.astype(jnp.int32), 0, k.shape[1])


def check_queries(q: Any, batch: int, heads: int, size: int, tokens: int | None = None) -> None:
    """tokens: how many there must be, for queries of tokens that are appended. Their dtype is their
    own: what comes out has it."""
    check_array("q", q)
    fits = q.ndim == 4 and q.shape[0] == batch and q.shape[3] == size and q.shape[2] % heads == 0
    if not fits or tokens not in (None, q.shape[1]):
        count = "tokens" if tokens is None else tokens
        raise UnsupportedInput(
            f"expected q ({batch}, {count}, a multiple of {heads}, {size}), got {q.shape}; queries "
            "are [batch, tokens, query heads, size]"
        )


def check_fresh(fresh: tuple[Any, Any], q: Any, heads: int, dtype: Any = None) -> None:
    """dtype: of the cache, where it is known."""
    expected = (*q.shape[:2], heads, q.shape[3])
    for x in fresh:
        check_array("fresh keys and values", x)
        if x.shape != expected:
            raise UnsupportedInput(
                f"expected fresh keys and values {expected}, got {x.shape}; they are those of the "
                "tokens that ask"
            )
        if dtype not in (None, x.dtype):
            raise UnsupportedInput(
                f"expected fresh keys and values of {dtype}, as init was told, got {x.dtype}; cast "
                "them"
            )
