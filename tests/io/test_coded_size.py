"""The size of a file is told without coding: of codes that nothing saves, and of cheap ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.formats import INT4_G32, quantize
from jaxcomp.io.weights_file import weights_bytes

RNG = np.random.default_rng(0)
W = jnp.asarray(RNG.normal(size=(256, 256)), jnp.float32)
HEAVY = jnp.asarray(RNG.standard_t(3, (256, 256)), jnp.float32)


def noise(x):
    return jnp.asarray(np.frombuffer(RNG.bytes(x.nbytes), x.dtype).reshape(x.shape))


def few_bits(step):
    method = jc.weights.entropy_constrained(step=step)
    return jc.weights.compress({"a": W, "b": HEAVY}, method, axes=-2)


# name: (the tree, what its file takes of its memory: more than, less than)
TREES = {
    "random codes": (lambda: {"w": jax.tree.map(noise, quantize(W, INT4_G32))}, 1.0, 1.01),
    "codes of int4": (lambda: {"w": quantize(W, INT4_G32), "v": quantize(W.T, INT4_G32)}, 0.8, 0.9),
    "3 bits": (lambda: few_bits(0.5), 0.3, 0.4),
    "1.3 bits": (lambda: few_bits(1.5), 0.1, 0.2),
    "floats and small leaves": (
        lambda: {
            "rest": W.astype(jnp.bfloat16),
            **{str(i): {"w": quantize(W[i::8, :64], INT4_G32), "b": W[i]} for i in range(8)},
        },
        0.6,
        0.8,
    ),
}


@pytest.mark.parametrize("name", TREES)
def test_the_size_of_the_file_is_told_within_one_percent(name):
    make, least, most = TREES[name]
    tree = make()
    file, memory = len(weights_bytes(tree)), jc.tree.nbytes(tree)
    assert memory > 30_000 and least < file / memory < most
    assert abs(jc.io.coded_nbytes(tree) - file) < 0.005 * file


def test_what_cannot_be_saved_is_refused():
    with pytest.raises(jc.UnsupportedInput, match="leave it out of what is saved"):
        jc.io.coded_nbytes({"w": W, "f": len})
