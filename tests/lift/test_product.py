"""A plan's vectors and finish make of any dot_general the product with a matrix, and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import jaxcomp as jc
from jaxcomp.lift import product
from jaxcomp.lift import view as views
from jaxcomp.lift.view import Source
from tests.lift.cases import QUICK, check_law, normal, scaled


def _by_plan(view, x, plan):
    """The product by the plan, with the dense source: [*batch, rows, in] x [*batch, in, *free]."""
    w = view.source.array
    rank = w.ndim
    order = [*plan.batch, *plan.contracted]
    order += [axis for axis in range(-rank, 0) if axis not in order]
    count, over = len(plan.batch), len(plan.contracted)
    w = w.transpose([axis + rank for axis in order])
    w = w.reshape(*w.shape[:count], -1, *w.shape[count + over :])
    vectors = plan.vectors(x)
    batch = list(range(count))
    return plan.finish(
        lax.dot_general(vectors, w, (((count + 1,), (count,)), (batch, batch)), precision="highest")
    )


@st.composite
def products(draw):
    """(shape, permutation, a broadcast axis, dimension_numbers, free sizes of x, which first)."""
    rank = draw(st.integers(2, 4))
    shape = tuple(draw(st.sampled_from((1, 2, 3))) for _ in range(rank))
    order = tuple(draw(st.permutations(range(rank))))
    wide = draw(st.sampled_from((None, *range(rank + 1))))
    axes = list(draw(st.permutations(range(rank + (wide is not None)))))
    over = draw(st.integers(1, len(axes)))
    batch = draw(st.integers(0, len(axes) - over))
    over, batch = axes[:over], axes[over : over + batch]
    free = draw(st.lists(st.sampled_from((1, 2)), max_size=2))
    places = draw(st.permutations(range(len(over) + len(batch) + len(free))))
    return shape, order, wide, over, batch, free, places, draw(st.booleans())


@settings(max_examples=20, deadline=None, derandomize=True)
@given(products())
def test_any_dot_general_goes_by_its_plan(case):
    shape, order, wide, over, batch, free, places, first = case
    w = normal(*shape)
    view = views.transpose(views.whole(Source("w", w, ndim=len(shape))), order)
    if wide is not None:
        to = (*view.shape[:wide], 2, *view.shape[wide:])
        view = views.broadcast(view, to, tuple(i for i in range(len(to)) if i != wide))
    sizes = [view.shape[i] for i in (*over, *batch)] + free
    x_shape = [0] * len(sizes)
    for size, at in zip(sizes, places, strict=True):
        x_shape[at] = size
    x = normal(*x_shape, seed=1)
    x_over, x_batch = tuple(places[: len(over)]), tuple(places[len(over) : len(over) + len(batch)])
    numbers = ((tuple(over), x_over), (tuple(batch), x_batch))
    if not first:
        numbers = tuple(pair[::-1] for pair in numbers)
    plan = product.plan(view, x.shape, numbers, first=first)
    if plan == "nothing is summed over":
        return

    def both(x, w):
        pair = (view.dense(), x) if first else (x, view.dense())
        return _by_plan(view, x, plan), lax.dot_general(*pair, numbers, precision="highest")

    got, expected = jax.jit(both, compiler_options=QUICK)(x, w)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "shape, numbers, why",
    [
        ((4, 2, 6), (((1,), (0,)), ((), ())), "along a part"),
        ((8, 6), (((), ()), ((), ())), "nothing is summed"),
        ((4, 2, 6), (((1,), (2,)), ((0,), (0,))), "along a part"),
    ],
)
def test_what_is_no_product_with_a_matrix_says_so(shape, numbers, why):
    view = views.reshape(views.whole(Source("w", scaled(8, 6), ndim=2)), shape)
    assert why in product.plan(view, (4, 4), numbers, first=False)


X = normal(3, 4, 8)
EINSUMS = {  # packed axes of w, the equation, shapes of x and w
    "batch in front": ((-2,), "ebi,eio->ebo", (5, 3, 4), (5, 4, 6)),
    "batch in the middle": ((-3,), "bei,ieo->beo", (3, 5, 4), (4, 5, 6)),
    "batch at the end": ((-3,), "bie,ioe->boe", (3, 4, 5), (4, 6, 5)),
    "one input": ((-2,), "bi,io->bo", (3, 1), (1, 6)),
    "one input, batches": ((-2,), "ebi,eio->ebo", (5, 3, 1), (5, 1, 6)),
    "one output summed": ((-2,), "bo,io->bi", (3, 1), (4, 1)),
    "one input, packed otherwise": ((-1,), "bi,io->bo", (3, 1), (1, 6)),
    "two batches": ((-2,), "aebi,eaio->beao", (2, 5, 3, 4), (5, 2, 4, 6)),
    "two summed": ((-3, -2), "bthk,hkd->btd", (3, 2, 5, 4), (5, 4, 6)),
    "summed apart": ((-3, -1), "bhk,hdk->bd", (3, 5, 4), (5, 6, 4)),
    "free on both sides": ((-2,), "bi,oip->bop", (3, 4), (6, 4, 2)),
    "batch of a part": ((-2,), "bhi,iho->bho", (3, 5, 8), (8, 15)),
    "free axes summed": ((-2,), "bho,hio->bi", (3, 5, 6), (5, 4, 6)),
    "free axis summed, batch": ((-2,), "beo,eio->bei", (3, 5, 6), (5, 4, 6)),
    "summed in another order": ((-3, -2), "bkh,hkd->bd", (3, 4, 5), (5, 4, 6)),
}


@pytest.mark.parametrize("name", EINSUMS)
def test_einsums_keep_a_weight_packed(name):
    axes, equation, x, w = EINSUMS[name]
    shape = (8, 5, 3) if name == "batch of a part" else w
    leaf = scaled(*w, axes=axes)
    check_law(lambda w, x: jnp.einsum(equation, x, w.reshape(shape)), leaf, normal(*x))


@pytest.mark.parametrize("x_dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("wanted", [None, jnp.float32, jnp.bfloat16])
def test_results_have_the_dtype_that_the_function_gives_them(x_dtype, wanted):
    def fn(w, x):
        return jnp.dot(x, w.astype(x.dtype), preferred_element_type=wanted)

    # Where float32 is asked for, nothing is rounded to less on the way; weights are not either.
    check_law(fn, scaled(8, 6), normal(3, 8, dtype=x_dtype), tolerance=2**-7)
    if wanted == jnp.float32:
        w, x = scaled(8, 6), normal(3, 8, dtype=x_dtype)
        got = jax.jit(lambda w, x: jc.lift(fn)(w, x))(w, x)
        exact = np.asarray(x, np.float64) @ np.asarray(w.codes * w.scales, np.float64)
        np.testing.assert_allclose(got, exact, rtol=0, atol=1e-5)


def test_integers_are_multiplied_in_the_dtype_of_the_result():
    x = jnp.rint(100 * X).astype(jnp.int32)
    check_law(lambda w, x: (x @ w, (x > 0) @ w), scaled(8, 6), x)


def test_products_of_vectors_and_stacks():
    check_law(lambda w, x: (x[0, 0] @ w, w.T @ x[0, 0], x @ w), scaled(8, 6), X)
    batched = jax.vmap(lambda w, x: x @ w, (None, 1), 2)
    check_law(batched, scaled(8, 6), X)
    check_law(jax.vmap(lambda w, x: x @ w), scaled(3, 8, 6), X)


@pytest.mark.parametrize(
    "axes, equation, x, w",
    [
        ((-2,), "bmo,bo->bm", (12, 3, 6), (12, 6)),
        ((-3, -2), "bho,hdo->bhd", (3, 4, 5), (4, 2, 5)),
        ((-2, -1), "zbc,zb->bc", (1, 6, 3), (1, 6)),
    ],
)
def test_a_product_paired_along_a_packed_axis_says_so(axes, equation, x, w):
    def fn(w, x):
        return jnp.einsum(equation, x, w)

    leaf, x = scaled(*w, axes=axes), normal(*x)
    found = check_law(fn, leaf, x, materialised=[""])
    assert [row.why for row in found.rows][0].startswith("it is paired along axes")
    with pytest.raises(jc.MaterialisedLeaf, match="paired along"):
        jc.lift(fn, strict=True)(leaf, x)


def test_an_array_of_numpy_meets_a_repeated_weight():
    x = np.asarray(normal(3, 24))
    leaf = scaled(12, 6)
    check_law(lambda w: x @ jnp.broadcast_to(w, (2, 12, 6)).reshape(24, 6), leaf)
    check_law(lambda w: x @ jnp.tile(w, (2, 3)), leaf)


def test_what_rounds_its_inputs_is_not_transposed():
    inner = jax.jit(jc.formats.quantize, static_argnums=1)(normal(64, 32), jc.formats.INT8)
    leaf = jc.formats.Transformed(inner, activation="int8")
    assert product.rounds(jc.formats.Sum((leaf,))) and not product.rounds(inner)
    check_law(lambda w, x: x @ w.T, leaf, normal(3, 32), materialised=[""])
    check_law(lambda w, x: x @ w.T, inner, normal(3, 32), tolerance=1e-4)
