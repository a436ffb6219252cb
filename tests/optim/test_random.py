"""Words under keys that change are pinned, and nothing in them repeats."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp import UnsupportedInput
from jaxcomp.optim.random import fold, signs, uniform, words

KEY = np.array([0x243F6A88, 0x85A308D3], np.uint32)


def test_golden_words():
    assert np.asarray(jax.jit(fold)(KEY, 7)).tolist() == [0xF814AD22, 0x15C95A0A]
    drawn = jax.jit(words, static_argnums=1)(KEY, (3,))
    assert np.asarray(drawn).tolist() == [0x72F00112, 0xE9C9C7D5, 0x6748F4E3]


def test_seeds_have_32_bits():
    both = [np.asarray(fold(KEY, seed)).tolist() for seed in (0xFFFFFFFF, -1)]
    assert both[0] == both[1] != np.asarray(fold(KEY, 0x80000000)).tolist()
    with pytest.raises(UnsupportedInput, match="a seed of at most 32 bits"):
        fold(KEY, 1 << 32)


def test_keys_of_steps_leaves_and_senders_are_all_different():
    keys = np.asarray(jax.jit(lambda: fold(fold(KEY, jnp.arange(300))[0], 1, jnp.arange(9)))())
    assert len(np.unique(keys, axis=0)) == 9
    many = np.asarray(jax.jit(lambda: fold(KEY, jnp.arange(5000)))())
    assert len(np.unique(many, axis=0)) == 5000
    one = np.asarray(jax.jit(fold)(KEY, 4999))
    np.testing.assert_array_equal(many[-1], one)


def test_uniform_and_signs_are_even_and_do_not_follow_the_key():
    draw = jax.jit(jax.vmap(lambda key: (uniform(key, (101,)), signs(key, (101,)))))
    noise, sign = map(np.asarray, draw(fold(KEY, jnp.arange(400))))
    assert noise.min() >= 0 and noise.max() < 1
    np.testing.assert_allclose(noise.mean(), 0.5, atol=5 / (12 * noise.size) ** 0.5)
    np.testing.assert_allclose(noise.var(), 1 / 12, rtol=0.02)
    assert set(np.unique(sign)) == {-1, 1}
    flat = noise - 0.5
    for a, b in ((flat[1:], flat[:-1]), (flat[:, 1:], flat[:, :-1])):  # of keys, of positions
        assert abs((a * b).mean()) < 5 / 12 / a.size**0.5


def test_a_seed_is_an_integer():
    for seed in (0.5, np.float32(1)):
        with pytest.raises(UnsupportedInput, match="expected an integer, as a seed is"):
            fold(KEY, seed)
    np.testing.assert_array_equal(fold(KEY, 7), fold(KEY, np.int64(7)))
