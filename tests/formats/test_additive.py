"""Additive codebooks: the sum of the paper, its bits, and sums that one table cannot make."""

import jax.numpy as jnp
import numpy as np

import jaxcomp as jc
from tests.checks import check_leaf

rng = np.random.default_rng(0)
OUT, GROUPS, BOOKS, LEVELS, VECTOR = 5, 4, 2, 256, 8


def test_vectors_of_all_books_are_added():
    codes = rng.integers(0, LEVELS, (OUT, GROUPS, BOOKS))
    books = rng.integers(-9, 9, (BOOKS, LEVELS, VECTOR)).astype(np.float32)
    scales = 2.0 ** rng.integers(-2, 3, OUT).astype(np.float32)
    leaf = jc.formats.additive(
        jnp.asarray(codes), jnp.asarray(books), jnp.asarray(scales), size=GROUPS * VECTOR - 3
    )
    each = books[np.arange(BOOKS), codes]  # [out, groups, books, vector]
    expected = each.sum(2).reshape(OUT, -1) * scales[:, None]
    np.testing.assert_array_equal(check_leaf(leaf), expected[:, :-3])
    code_bits = BOOKS * 8 * GROUPS  # of one output
    assert 8 * leaf.nbytes == OUT * (code_bits + 16) + 16 * BOOKS * LEVELS * VECTOR
    assert leaf.describe() == "codebook 2 x 8 bits of 8"
    # Codes of one book alone give another weight.
    np.testing.assert_array_equal(leaf.shape, (5, 29))
    assert np.abs(each[:, :, 0].reshape(OUT, -1) * scales[:, None] - expected).max() > 1
