"""Sums of learned vectors err less than any grid of as many bits; each part against brute force."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.base import UnsupportedInput
from jaxcomp.weights import aqlm, gptq, rtn
from jaxcomp.weights.aqlm import Sums, errors, fitted, search
from tests.checks import check_leaf
from tests.weights.rounding_cases import compiled, layer

LAYER, SMALL = layer(256, 256, 512), layer(32, 70, 300)
TWO_BITS = dict(vector=2, books=1, bits=4, scaled=False)  # 16 pairs: 2.01 bits in all
PAIRS = dict(vector=2, books=1, bits=4)
FOURS = dict(vector=4, bits=4, scaled=False)


def run(method, case=LAYER):
    return method.compress(case.w, case.statistics, (-1,))


@pytest.mark.usefixtures("quick")
def test_at_two_bits_outputs_are_closer_than_those_of_k_means_and_gptq():
    found, start = run(aqlm(**TWO_BITS)), run(aqlm(turns=0, **TWO_BITS))
    assert found.nbytes == start.nbytes == 256 * 256 // 4 + 2 * 16 * 2
    # Measured, of the outputs' power: 0.027, k-means 0.074, gptq 0.056, rtn 0.151.
    assert LAYER.objective(found) < 0.5 * LAYER.objective(start)
    for other in (rtn, gptq):
        near = run(other(jc.formats.INT2, clip=True))
        assert found.nbytes < near.nbytes
        assert LAYER.objective(found) < 0.6 * LAYER.objective(near)


@pytest.mark.usefixtures("quick")
def test_error_falls_with_every_bit_and_book():
    one, two, pairs = (run(aqlm(**o), SMALL) for o in (FOURS | {"books": 1}, FOURS, PAIRS))
    off = [SMALL.objective(leaf) / SMALL.objective(0 * SMALL.w) for leaf in (one, two, pairs)]
    # Measured: 0.114, 0.031 and 0.034.
    assert off[1] < 0.5 * off[0]  # another book
    assert off[2] < 0.5 * off[0]  # as many bits of half the vector
    assert check_leaf(two).shape == (32, 70)  # 17 runs of 4 and a short one
    assert two.nbytes == 32 * 18 * 2 // 2 + 2 * 2 * 16 * 4
    assert check_leaf(pairs).shape == (32, 70)
    assert pairs.nbytes == 32 * (18 + 2) + 2 * 16 * 2  # 35 codes fill 18 bytes


def test_a_matrix_of_few_vectors_comes_back_exactly():
    rng = np.random.default_rng(0)
    table, codes = rng.integers(-99, 99, (16, 4)), rng.integers(0, 16, (32, 18))
    case = SMALL._replace(w=jnp.asarray(table[codes].reshape(32, -1)[:, :70], jnp.float32))
    np.testing.assert_array_equal(run(aqlm(books=1, **FOURS), case).dense(), case.w)


def test_scales_follow_rows_of_other_magnitudes():
    case = SMALL._replace(w=SMALL.w * 4.0 ** jnp.arange(-8, 8).repeat(2)[:, None])
    y = case.w @ case.x.T  # [out, vectors]
    off = [(run(aqlm(**o), case).dense() - case.w) @ case.x.T for o in (PAIRS, TWO_BITS)]
    worst = [((each**2).sum(1) / (y**2).sum(1)).max() for each in off]
    assert worst[0] < 0.2 and worst[1] > 0.9  # measured: 0.10


def tiny(seed=0):
    """(w [3, 4], h, sums of 2 groups and 2 books of 4 vectors of 2)."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(4, 4))
    codes = rng.integers(0, 4, (3, 2, 2))
    floats = (rng.normal(size=(3, 4)), mix @ mix.T, rng.normal(size=(2, 4, 2)), rng.random(3) + 0.5)
    w, h, table, scales = (jnp.asarray(x, jnp.float32) for x in floats)
    return w, h, Sums(jnp.asarray(codes, jnp.int32), table, scales)


def test_a_wide_beam_finds_the_best_of_all_sums_and_a_narrow_one_no_worse():
    w, h, sums = tiny()
    each = jax.jit(jax.vmap(lambda codes: errors(w, h, sums._replace(codes=codes))))
    every = jnp.asarray(list(itertools.product(range(4), repeat=4)), jnp.int32)
    every = jnp.broadcast_to(every.reshape(-1, 1, 2, 2), (256, 3, 2, 2))
    best = each(every).min(0)
    found = [jax.jit(search, static_argnums=3)(w, h, sums, beam) for beam in (64, 1)]
    wide, narrow = each(jnp.stack(found))
    np.testing.assert_allclose(wide, best, rtol=1e-4)
    assert (narrow <= errors(w, h, sums)).all() and narrow.sum() > best.sum()


def test_codebooks_are_solved_for_their_codes():
    w, h, sums = tiny(1)
    solved = jax.jit(fitted, static_argnums=(3, 4))(w, h, sums, 40, False)
    design = np.zeros((3, 4, 2, 4, 2))  # what each entry adds to W
    for o, g, m in itertools.product(range(3), range(2), range(2)):
        for j in range(2):
            design[o, 2 * g + j, m, sums.codes[o, g, m], j] = sums.scales[o]
    root = np.linalg.cholesky(np.asarray(h, np.float64)).T
    left = np.einsum("ij,oj...->oi...", root, design).reshape(12, -1)
    right = (np.asarray(w, np.float64) @ root.T).reshape(-1)
    rest = right - left @ np.linalg.lstsq(left, right)[0]
    found = jax.jit(errors)(w, h, solved).sum()
    np.testing.assert_allclose(found, (rest**2).sum(), rtol=1e-3, atol=1e-4)
    scaled = jax.jit(fitted, static_argnums=(3, 4))(w, h, sums, 40, True)
    assert jax.jit(errors)(w, h, scaled).sum() < 0.999 * found


def test_without_data_inputs_weigh_the_same():
    even = {"moment": jnp.eye(70), "count": jnp.float32(1)}
    same = run(aqlm(**PAIRS), SMALL._replace(statistics=even))
    free = run(aqlm(data_free=True, **PAIRS), SMALL._replace(statistics=None))
    np.testing.assert_array_equal(same.dense(), free.dense())
    assert SMALL.objective(run(aqlm(**PAIRS), SMALL)) < SMALL.objective(free)


def test_compress_stacks_layers_with_one_program_per_shape():
    stack = jnp.stack([layer(32, 70, 1, seed=seed).w for seed in range(2)])  # [layers, out, in]

    def model(w, x):
        return jax.lax.scan(lambda y, w: (y + x @ w.T, None), jnp.zeros((300, 32)), w["a"])[0]

    stats = jc.observe(model, {"a": stack}, [SMALL.x])
    small = jc.weights.compress({"a": stack}, aqlm(**PAIRS), stats=stats)["a"]
    near = jc.weights.compress({"a": stack}, rtn(jc.formats.INT2, clip=True), stats=stats)["a"]
    assert small.nbytes == 2 * (32 * (18 + 2) + 2 * 16 * 2)
    for i in range(2):
        case = SMALL._replace(w=stack[i])
        assert case.objective(small.dense()[i]) < 0.6 * case.objective(near.dense()[i])
    again, other = aqlm(**PAIRS), {"a": stack[::-1]}
    assert compiled(lambda: jc.weights.compress(other, again, stats=stats)) == 0


def test_what_makes_no_codebooks_is_refused():
    with pytest.raises(UnsupportedInput, match="bits from 1 to 16, .* got 17"):
        aqlm(bits=17)
    with pytest.raises(UnsupportedInput, match="beam >= 1"):
        aqlm(beam=0)


def test_arrays_are_of_32_bits_where_64_are_the_default():
    case = layer(16, 24, 40)
    with jax.enable_x64(True):
        made = jax.eval_shape(
            lambda w, s: aqlm(bits=4, turns=2).compress(w, s, (-1,)), case.w, case.statistics
        )
    assert made.dtype == jnp.float32 and made.shape == (16, 24)
