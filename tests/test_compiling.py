"""What tests compile unoptimised returns the same bits, and no more is compiled so than may be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.compiling import means_the_same

X = np.random.default_rng(0).normal(size=(2, 64)).astype(np.float32)


def judged(function, *arguments):
    return means_the_same(jax.jit(function).lower(*arguments).compiler_ir())


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[0] * x[1],
        lambda x: jnp.clip(x, -1, 1)[0, ::3],
        lambda x: jnp.where(x > 0, -x, x / 3),
        lambda x: x.astype(jnp.bfloat16).T,
    ],
    ids=["product", "clip", "where", "cast"],
)
def test_one_rounding_is_the_same_in_any_case(function):
    assert judged(function, X)
    levels = [{"xla_backend_optimization_level": level} for level in (0, 3)]
    one, other = (jax.jit(function, compiler_options=options)(X) for options in levels)
    np.testing.assert_array_equal(one, other)


def test_what_may_be_fused_or_ordered_anew_or_is_long_is_optimised():
    a = X[0]
    assert not judged(lambda x: x * x + x, a)
    assert not judged(jnp.exp, a)
    assert not judged(jnp.sum, a)
    assert not judged(lambda x: x @ x, a)
    assert not judged(lambda x: x * x, a.astype(np.complex64))
    assert not judged(lambda x: x + 1, np.zeros(1 << 17, np.float32))
    assert not judged(lambda x: jax.lax.fori_loop(0, 9, lambda i, s: s ^ i, x), np.int32(1))


def test_equal_programs_are_compiled_once_and_traced_each_time():
    compiled = [jax.jit(lambda x: jnp.cos(x) * 3 + x).lower(X).compile() for _ in range(2)]
    one, other = (each.runtime_executable() for each in compiled)
    assert (one is other) == jax.__version__.startswith("0.10.")
    np.testing.assert_array_equal(compiled[0](X), compiled[1](X))
