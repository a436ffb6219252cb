"""Additive codebooks: each run of G inputs is a sum of M vectors, one from each of M codebooks.

    w[o, G] = s_o * sum over m of C_m[code[o, G, m]]

Egiazarian et al., Extreme compression of large language models via additive quantization (AQLM),
2024, section 3. Bits per weight: M log2(K) / G for codes, 16 M K G / (out in) for codebooks and
16 / in for scales; K of 2**9 to 2**16 takes 16 bits a code. The methods that find codes and
codebooks are elsewhere; this is how they are kept.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from jaxcomp.formats.codebook import Codebook, tabled


def additive(
    codes: Integer[Array, "out groups books"],
    codebooks: Float[Array, "books levels vector"],
    scales: Float[Array, " out"],
    *,
    size: int,
    kept: str = "bfloat16",
    dtype: Any = jnp.float32,
) -> Codebook:
    """A matrix of `size` inputs; codebooks and scales are stored as `kept`."""
    return tabled(codes, codebooks[None, None], scales[:, None], size, kept, dtype)
