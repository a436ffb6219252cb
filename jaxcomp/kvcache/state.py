"""What can be done with the state of any cache: count it, and reorder its sequences."""

from typing import Any

import jax

from jaxcomp import tree


def nbytes(state: Any) -> int:
    """Bytes that the state holds: packed tokens, windows, positions and flags, all of them."""
    return tree.nbytes(state)


def take(state: Any, rows: jax.Array) -> Any:
    """The state of sequences `rows` i32[n]: beams that survive, or a shared prefix, forked."""
    return jax.tree.map(lambda x: x[rows], state)
