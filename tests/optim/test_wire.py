"""Blocks and wires: any shape becomes rows and comes back; sizes are known beforehand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp import optim
from jaxcomp.optim.wire import block_of, blocks, counts, largest, restored, wire

METHODS = [
    optim.identity(),
    optim.sign(),
    optim.top_k(0.5),
    optim.random_k(0.5),
    optim.qsgd(),
    optim.natural(),
    optim.terngrad(),
    optim.drive(),
    optim.quantized(jc.formats.INT4),
]


@pytest.mark.parametrize("shape", [(), (1,), (13,), (3, 5), (2, 0)])
def test_rows_come_back(shape):
    x = jnp.arange(1.0, 1 + np.prod(shape, dtype=int)).reshape(shape).astype(jnp.bfloat16)
    length = block_of(x.size, 8)
    rows = blocks(x, length)
    assert rows.dtype == jnp.float32 and rows.shape == (max(1, -(-x.size // 8)), 8)
    back = restored(rows, wire((), x))
    assert back.dtype == x.dtype
    np.testing.assert_array_equal(back, x)
    sizes = counts(x.size, length)
    assert sizes.sum() == max(1, x.size) and len(sizes) == len(rows)


def test_scalars_nothing_at_all_and_nan_go_through_every_method():
    arrays = [jnp.float32(-2.0), jnp.array([1, jnp.nan, 3], jnp.bfloat16)]
    key = jnp.array([1, 2], jnp.uint32)

    def there(arrays):
        def each(method, x):
            return method.decompress(method.compress(key, x, method.init(x))[0])

        return [[each(method, x) for x in arrays] for method in METHODS]

    for method, found in zip(METHODS, jax.jit(there)(arrays), strict=True):
        for x, back in zip(arrays, found, strict=True):
            assert (back.shape, back.dtype) == (x.shape, x.dtype), method.name
        assert not jnp.isfinite(found[1]).all(), method.name
        if method.name == "drive":  # its block has 128 entries, and it is right in its mean
            assert jnp.isfinite(found[0])
        else:
            np.testing.assert_allclose(found[0], -2, rtol=1e-2, err_msg=method.name)
    assert all(x.shape == (2, 0) for (x,) in jax.eval_shape(there, [jnp.zeros((2, 0))]))


def test_the_largest_of_each_row_and_what_cannot_be_divided_by():
    rows = np.ones((4, 640), np.float32)
    rows[0, 9] = -3
    rows[1:, 7] = np.nan, np.inf, 1e38
    np.testing.assert_array_equal(jax.jit(largest)(rows)[:, 0], [3, np.nan, np.nan, np.nan])


def test_a_block_is_no_longer_than_needed():
    assert [block_of(n, 256) for n in (0, 1, 9, 300)] == [8, 8, 16, 256]
    assert optim.wire_nbytes(optim.sign(), jnp.zeros((10, 10))) == 13 + 4
