"""What the kernels of kv_attention share: parts merge, and slices are the channels in order."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.kernels import kv_attention_lax as plain
from tests.kernels import kv_cases
from tests.kernels.quant_cases import QUICK


def test_parts_merge_to_the_whole():
    q, limits, sides, storages, exact = kv_cases.case(kv_cases.INT4, kv_cases.INT8, chunks=12)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def run(q, limits, sides):
        found = []
        for first in (0, 4, 8):
            cut = jax.tree.map(lambda x, first=first: x[:, :, first : first + 4], sides)
            here = jnp.clip(limits - first, 0, 4)
            found.append(plain.attend(q, here, cut, storages, q.shape[-1] ** -0.5))
        pairs = zip(zip(*found, strict=True), (-1, -1, -2), strict=True)
        return plain.merge(*(jnp.stack(x, axis) for x, axis in pairs))

    kv_cases.close(kv_cases.output(run(q, limits, sides)), exact, 3e-6)


def test_slices_are_what_shares_bytes():
    side, storage, values = kv_cases.side(**kv_cases.GROUPS2, shape=(1, 1, 3, 1, 64))
    at = plain.shape(side.codes, side.scales, storage)
    assert (at.chunks, at.group, at.size, at.slices, at.rows, at.groups) == (3, 1, 64, 4, 8, 2)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def shared(x, side):
        cut = plain.sliced(x, at)
        return cut, plain.joined(cut, at), plain.own_group(at, 16), plain.dense(side, storage)

    cut, back, own, dense = map(np.asarray, shared(jnp.arange(64), side))
    assert cut[:, 1].tolist() == [1, 9, 17, 25] and cut[:, 8].tolist() == [32, 40, 48, 56]
    np.testing.assert_array_equal(back, np.arange(64))
    np.testing.assert_array_equal(own[1], np.arange(16) >= 8)
    np.testing.assert_allclose(dense, values, rtol=1e-6)
