"""Hadamard matrices are that, and rotations by them: the identity, the outlier, the kernels."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from jaxcomp.base import UnsupportedInput
from jaxcomp.kernels import hadamard

# One of each construction and table, the m that models need, and products with powers of two.
SIZES = (1, 2, 16, 12, 20, 28, 36, 40, 52, 60, 76, 92, 100, 108, 116, 140, 148, 156, 172, 480, 688)
ROTATED = (1, 8, 52, 256, 344, 432)  # by one factor and by two
BOTH_KERNELS = pytest.mark.parametrize("kernel", [hadamard.cuda, hadamard.tpu])


def _normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _signs(d):
    return np.sign(_normal(d, seed=1))


@functools.partial(jax.jit, static_argnames=("inverse", "key"))
def _run(x, signs=None, inverse=False, key=None):
    return hadamard.run(x, signs=signs, inverse=inverse, key=key)


@pytest.mark.parametrize("d", SIZES)
def test_rows_are_orthogonal_signs(d):
    h = hadamard.matrix(d)
    assert h.dtype == np.int8 and (abs(h) == 1).all()
    wide = h.astype(np.float32)  # exact: sums stay far below 2**24
    np.testing.assert_array_equal(wide @ wide.T, d * np.eye(d))


def test_what_is_known():
    # Hidden and intermediate sizes of Llama 2 and 3, Qwen 2.5, Phi 3.5, GPT-2 and GPT-2 XL.
    for d in (4096, 11008, 13824, 14336, 28672, 18944, 4864, 8960, 29568, 6400, 768, 1600):
        m = hadamard._known(d)
        assert d % m == 0 and (d // m).bit_count() == 1
    for d in (0, -4, 3, 6, 11, 22, 4 * 47, 2 * 1009):
        with pytest.raises(UnsupportedInput, match=f"got {d}; "):
            hadamard.matrix(d)


@pytest.mark.parametrize("d", ROTATED)
def test_run_is_the_dense_product_and_inverse_undoes_it(d):
    x, signs = _normal(2, 3, d), _signs(d)
    y = _run(x, signs)
    dense = (x * signs).astype(np.float64) @ hadamard.matrix(d) / np.sqrt(d)
    np.testing.assert_allclose(y, dense, atol=1e-5)
    np.testing.assert_allclose(_run(y, signs, inverse=True), x, atol=1e-5)
    np.testing.assert_allclose(_run(x), x @ hadamard.rotation(d), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(y, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-6)


@pytest.mark.parametrize("d", [3, 188, 2 * 47])
def test_a_key_rotates_any_size(d):
    rotation = hadamard.rotation(d, (1, 2))
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(d), atol=1e-6)
    assert abs(rotation - hadamard.rotation(d)).max() > 0.1
    x = _normal(5, d)
    y = _run(x, key=(1, 2))
    np.testing.assert_allclose(y, x @ rotation, atol=1e-5)
    np.testing.assert_allclose(_run(y, key=(1, 2), inverse=True), x, atol=1e-5)
    with pytest.raises(UnsupportedInput, match="a key"):
        hadamard.run(x)


def test_the_random_part_is_pinned_and_spreads():
    # Rounding of a QR decomposition may move the last digits, a change of the generator all.
    np.testing.assert_allclose(hadamard.rotation(3)[0], PINNED, atol=1e-6)
    many = np.stack([hadamard.rotation(3, (7, seed)) for seed in range(400)])
    # Uniformly random: every entry has mean 0 and variance 1 / d.
    assert abs(many.mean(0)).max() < 0.12 and abs((many**2).mean(0) - 1 / 3).max() < 0.08


PINNED = [-0.7580011, 0.13041367, 0.6390826]


def test_where_a_matrix_is_known_the_key_does_not_matter():
    np.testing.assert_array_equal(hadamard.rotation(12, (3, 4)), hadamard.rotation(12))
    flat = (hadamard.matrix(12) / np.sqrt(12)).astype(np.float32)
    np.testing.assert_allclose(hadamard.rotation(12), flat, rtol=1e-7)


@pytest.mark.parametrize("d", [256, 172])
def test_an_outlier_becomes_flat(d):
    x, rest = np.zeros((2, d), np.float32), _normal(2, d)
    x[:, 7] = 1000
    y = _run(x, _signs(d))
    np.testing.assert_allclose(abs(y), 1000 / np.sqrt(d), rtol=1e-6)  # as flat as can be
    assert abs(_run(x + rest, _signs(d))).max() < 1000 / np.sqrt(d) + 5  # and the rest stays normal


def test_a_type_comes_back_and_sums_are_float32():
    x = jnp.asarray(_normal(4, 256), jnp.bfloat16)
    y = _run(x)
    exact = np.asarray(x, np.float64) @ hadamard.matrix(256) / 16
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(y, np.float32), exact, rtol=2**-8)


@pytest.mark.parametrize("d", [128, 36])
def test_derivatives_are_rotations(d):
    x, cotangent, signs = _normal(3, d), _normal(3, d, seed=2), _signs(d)

    @jax.jit
    def derivatives(x, cotangent):
        function = functools.partial(hadamard.run, signs=signs)
        y, pull = jax.vjp(function, x)
        tangent = jax.jvp(function, (x,), (cotangent,))[1]
        cubic = jax.grad(lambda x: (function(x) ** 3).sum() / 6)  # its gradient is R (R^T x)^2 / 2
        return y, pull(cotangent)[0], tangent, jax.jvp(cubic, (x,), (cotangent,))[1]

    y, pulled, tangent, second = derivatives(x, cotangent)
    np.testing.assert_allclose(pulled, _run(cotangent, signs, inverse=True), atol=1e-5)
    np.testing.assert_allclose(tangent, _run(cotangent, signs), atol=1e-5)
    expected = _run(y * _run(cotangent, signs), signs, inverse=True)
    np.testing.assert_allclose(second, expected, atol=1e-4)


def test_vmap_equals_a_loop():
    x, signs = _normal(3, 2, 128), np.stack([_signs(128), -_signs(128)])
    both = jax.vmap(jax.vmap(hadamard.run), in_axes=1)  # over the second axis, then the first
    each = jax.vmap(lambda x, signs: hadamard.run(x, signs=signs), in_axes=(1, 0), out_axes=1)
    np.testing.assert_allclose(jax.jit(both)(x), _run(x).swapaxes(0, 1), atol=1e-6)
    np.testing.assert_allclose(jax.jit(each)(x, signs), _run(x * signs), atol=1e-6)


def test_shard_map_rotates_rows_where_they_are():
    mesh = jax.make_mesh((8,), ("n",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("n")
    sharded = jax.shard_map(hadamard.run, mesh=mesh, in_specs=spec, out_specs=spec)
    x = jnp.asarray(_normal(16, 128))
    got, pulled = jax.jit(lambda x: (sharded(x), jax.grad(lambda x: sharded(x)[:, 0].sum())(x)))(x)
    np.testing.assert_allclose(got, _run(x), atol=1e-6)
    np.testing.assert_allclose(pulled, np.full(x.shape, 128**-0.5), atol=1e-6)


# (rows, d): less than a tile and more, and for the GPU one product, two, an oblong tile.
@BOTH_KERNELS
@pytest.mark.parametrize("shape", [(150, 128), (3, 256), (9, 2048)], ids=str)
def test_kernels_are_the_reference(kernel, shape):
    kernel = jax.jit(functools.partial(kernel, interpret=True))
    x = jnp.asarray(_normal(*shape)).at[1, 2].set(1e4)  # bfloat16 alone would be 4 off
    assert hadamard.supports(x.shape, x.dtype)
    expected = jax.jit(hadamard.reference)(x)
    np.testing.assert_allclose(kernel(x)[0], expected, atol=1e-3)
    np.testing.assert_allclose(kernel(x.at[1, 2].set(0))[0], _run(x.at[1, 2].set(0)), atol=1e-5)
    half = x.astype(jnp.bfloat16)
    np.testing.assert_allclose(
        np.asarray(kernel(half)[0], np.float32),
        np.asarray(_run(half), np.float32),
        rtol=2**-7,  # one step of bfloat16
        atol=1e-5,
    )


@BOTH_KERNELS
def test_a_nan_stays_in_its_row(kernel):
    x = jnp.asarray(_normal(5, 256)).at[2, 9].set(jnp.nan).at[3, 9].set(jnp.inf)
    (y,) = jax.jit(functools.partial(kernel, interpret=True))(x)
    np.testing.assert_array_equal(np.isfinite(y).all(1), [True, True, False, False, True])


def test_what_has_a_kernel():
    assert hadamard.supports((7, 16384), jnp.bfloat16)
    for shape in ((7, 64), (7, 32768), (7, 344), (0, 128)):
        assert not hadamard.supports(shape, jnp.float32)
    assert not hadamard.supports((7, 128), jnp.float16)
    program = jax.jit(hadamard.run).trace(jnp.ones((2, 128))).jaxpr
    assert "hadamard" in str(program)  # the primitive; the reference alone has another program
    assert hadamard.run(jnp.ones((0, 128))).shape == (0, 128)


def test_refusals_name_the_argument():
    with pytest.raises(UnsupportedInput, match="expected floats .* got int32"):
        hadamard.run(jnp.ones((2, 128), jnp.int32))
    with pytest.raises(UnsupportedInput, match="expected floats with an axis"):
        hadamard.run(jnp.float32(1))
    with pytest.raises(UnsupportedInput, match="got signs of shape"):
        hadamard.run(jnp.ones((2, 128)), signs=jnp.ones(64))


def test_one_trace_per_shape():
    run = jax.jit(chex.assert_max_traces(lambda x: hadamard.run(x), n=1))
    for seed in range(2):
        run(_normal(2, 128, seed=seed))
