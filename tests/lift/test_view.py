"""A view is the array that jnp would have made, through any sequence of layout operations."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcomp.lift import view as views
from jaxcomp.lift.view import Source
from tests.lift.cases import QUICK, normal, scaled

SIZES = (1, 2, 3, 4, 6)


def _factors(draw, total):
    """A shape of that many entries."""
    shape = []
    while total > 1:
        size = draw(st.sampled_from([d for d in range(2, total + 1) if total % d == 0]))
        shape.append(size)
        total //= size
    for _ in range(draw(st.integers(0, 2))):
        shape.insert(draw(st.integers(0, len(shape))), 1)
    return tuple(shape)


@st.composite
def programs(draw):
    """(shape of a weight, its packed axis, [(operation, arguments)])."""
    shape = draw(st.lists(st.sampled_from(SIZES), min_size=2, max_size=4).map(tuple))
    packed = draw(st.integers(-len(shape), -1))
    steps, now = [], shape
    for _ in range(draw(st.integers(1, 6))):
        name = draw(
            st.sampled_from(["transpose", "reshape", "broadcast", "tile", "cut", "squeeze"])
        )
        if name == "transpose":
            given = tuple(draw(st.permutations(range(len(now)))))
            now = tuple(now[i] for i in given)
        elif name == "reshape":
            given = now = _factors(draw, int(np.prod(now)))
        elif name == "broadcast":
            size = draw(st.sampled_from((1, 2)))
            given = size, draw(st.integers(0, len(now)))
            now = (*now[: given[1]], size, *now[given[1] :])
        elif name == "tile":
            given = tuple(draw(st.sampled_from((1, 1, 2))) for _ in now)
            now = tuple(n * size for n, size in zip(given, now, strict=True))
        elif name == "cut" and now:
            axis = draw(st.integers(0, len(now) - 1))
            size = draw(st.integers(1, now[axis]))
            step = draw(st.sampled_from((1, 1, 2, -1)))
            size = 1 + (size - 1) // abs(step)
            low = (size - 1) * max(0, -step)
            high = now[axis] - 1 - (size - 1) * max(0, step)
            given = axis, draw(st.integers(low, high)), size, step, draw(st.booleans())
            now = (*now[:axis], size, *now[axis + 1 :])
        elif name == "squeeze":
            given = tuple(i for i, n in enumerate(now) if n == 1)
            now = tuple(n for n in now if n != 1)
        else:
            continue
        steps.append((name, given))
    return shape, packed, steps


def _apply(view, name, given):
    if name == "broadcast":
        size, at = given
        shape = (*view.shape[:at], size, *view.shape[at:])
        return views.broadcast(view, shape, tuple(i for i in range(len(shape)) if i != at))
    if name == "cut":
        axis, start, size, step, traced = given
        return views.cut(view, axis, jnp.int32(start) if traced else start, size, step)
    return getattr(views, name)(view, given)


def _plain(x, name, given):
    if name == "broadcast":
        size, at = given
        return np.repeat(np.expand_dims(x, at), size, at)
    if name == "cut":
        axis, start, size, step, _ = given
        return np.take(x, [start + i * step for i in range(size)], axis)
    return getattr(np, name)(x, given)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(programs())
def test_layouts_of_a_view_are_those_of_the_array(program):
    shape, packed, steps = program
    leaf = scaled(*shape, axes=(packed,))
    sources = [normal(*shape), leaf]
    plain = [np.asarray(sources[0]), np.asarray(leaf.codes, np.float32) * np.asarray(leaf.scales)]
    followed = []

    def run(sources):
        found = []
        for source in sources:
            view = views.whole(Source("w", source, ndim=source.ndim))
            count = 0
            for name, argument in steps:
                new = _apply(view, name, argument)
                if new is None:  # what cannot be followed ends there
                    break
                view, count = new, count + 1
            followed.append((count, view.shape))
            found.append(view.dense())
        return found

    got = jax.jit(run, compiler_options=QUICK)(sources)
    for (count, kept), x, result in zip(followed, plain, got, strict=True):
        for name, argument in steps[:count]:
            x = _plain(x, name, argument)
        assert kept == x.shape
        np.testing.assert_allclose(result, x, rtol=1e-6)


def test_a_cut_knows_where_it_began_and_what_lost_its_order():
    view = views.whole(Source("w", normal(6, 4, 8), ndim=3))
    layer = views.cut(views.cut(view, 0, 2, 4), 0, 1, 1)
    assert dict(layer.source.at) == {-3: 3} and not layer.source.cuts
    assert views.cut(view, 1, 3, 4, -1).source.cuts == {-2}
    inner = views.cut(views.reshape(view, (6, 4, 2, 4)), 3, 1, 2)
    assert inner.source.cuts == {-1} and inner.shape == (6, 4, 2, 2)
    assert view.is_whole and not layer.is_whole


def test_a_packed_axis_is_not_cut_and_factors_not_across():
    leaf = views.whole(Source("w", scaled(8, 6), ndim=2))
    assert views.cut(leaf, 0, 0, 4) is None
    merged = views.reshape(views.transpose(leaf, (1, 0)), (48,))
    assert views.cut(merged, 0, 4, 8) is None
    assert views.cut(merged, 0, 8, 16).shape == (16,)
    assert views.reshape(leaf, (0,)) is None and views.convert(leaf, jnp.int32) is None


def test_what_is_shared_is_repeated_only_where_it_is_little():
    few = [views.whole(Source(p, scaled(64, 8, shared=True), ndim=2)) for p in "ab"]
    assert views.joined(few, 1).source.path == "a + b"
    assert views.joined(few, 0) == "they are not joined along one whole axis"
    short = [views.whole(Source(p, scaled(2, 8, shared=True), ndim=2)) for p in "ab"]
    assert views.joined(short, 1) == "they share values along that axis"
    other = views.whole(Source("c", scaled(64, 8, dtype=jnp.bfloat16), ndim=2))
    assert views.joined([few[0], other], 1) == "their formats differ"
    turned = views.transpose(views.whole(Source("c", scaled(64, 64), ndim=2)), (1, 0))
    assert isinstance(views.joined([turned, views.transpose(turned, (1, 0))], 1), str)
