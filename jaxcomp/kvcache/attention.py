"""attention: a cache in the place of a model's causal attention."""

from typing import Any

import jax

from jaxcomp.base import KVCache
from jaxcomp.kvcache.blockwise import Rope


def attention(
    cache: KVCache,
    state: Any,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    lengths: jax.Array | None = None,
    rope: Rope | None = None,
    exact_prompt: bool = True,
) -> tuple[jax.Array, Any]:
    """(out, state): what a model's causal attention becomes, for a prompt and for single tokens.

    q f[batch, tokens, query heads, size], k and v f[batch, tokens, heads, size]; query heads in
    runs share heads. The tokens of a prompt, which come together, see each other as they are, and
    are packed behind that. With exact_prompt=False they see what the cache made of them, as later
    tokens will: the loss over a text is then that of a decoder. rope is static to jax: pass one
    function at every step, as for another each program is compiled again.
    """
    new = cache.append(state, k, v, queries=q, lengths=lengths)
    if exact_prompt and k.shape[1] > 1:
        return cache.attend(state, q, rope=rope, fresh=(k, v))[0], new
    return cache.attend(new, q, rope=rope)
