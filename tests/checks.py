"""The laws of jaxcomp/base.py as code. A test of a method calls the check of its folder.

Every check asserts one sentence of the law, on the arguments it is given, and returns what it
made, so that a test can go on and look at it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np

from jaxcomp.base import Codec, EntropyModel, Payload
from jaxcomp.coding import Stream, Tables, decode, encode, from_bytes, is_finished, pop, to_bytes
from jaxcomp.formats import dense as to_dense
from jaxcomp.formats import dot
from jaxcomp.formats.layout import merged_axis
from jaxcomp.formats.qtensor import QTensor, unpacked
from jaxcomp.kernels.packing import pack
from jaxcomp.kvcache import nbytes, take
from jaxcomp.lift import lift
from jaxcomp.nets.fixed_point import dequantise, quantise
from jaxcomp.nets.integer import to_integers
from jaxcomp.tree import is_compressed
from tests.compiling import optimised

# Symbols drawn from their tables, at precision 16: what a 32-bit state and 16-bit words cost.
DRAWN = 1.003
# Any sequence at all: the last symbol of a skewed table costs this much more than its ideal.
WORST = 1.05
LANE_BITS = 32
# How far the bytes of integers may be from the bits that their entropy model says.
RATE_TOLERANCE = 0.005


def check_tables(tables: Tables) -> None:
    """Integers that sum to 2**precision in every row, each at least 1, laid end to end."""
    entries = np.asarray(tables.entries)
    assert entries.dtype == np.uint32
    frequencies = (entries >> 16).astype(np.int64) + 1
    starts = (entries & 0xFFFF).astype(np.int64)
    assert (frequencies.sum(axis=-1) == 1 << tables.precision).all()
    np.testing.assert_array_equal(starts[:, 0], 0)
    np.testing.assert_array_equal(starts[:, 1:], frequencies.cumsum(axis=-1)[:, :-1])


@optimised(True)
def check_round_trip(
    tables: Tables, symbols: np.ndarray, index: np.ndarray | None = None, **options: Any
) -> Stream:
    """decode(encode(symbols)) == symbols, through bytes too, and the stream ends where it began."""
    symbols, index = _arrays(symbols, index)
    stream = encode(tables, symbols, index, **options)
    for same in (stream, from_bytes(to_bytes(stream))):
        decoded = decode(tables, same, index, shape=symbols.shape)
        np.testing.assert_array_equal(decoded, symbols)
        decoded, rest = pop(same, tables, index, shape=symbols.shape)
        np.testing.assert_array_equal(decoded, symbols)
        assert is_finished(rest)
    return stream


def _arrays(symbols: np.ndarray, index: np.ndarray | None) -> tuple[jax.Array, jax.Array | None]:
    return jnp.asarray(symbols), None if index is None else jnp.asarray(index)


@optimised(True)
def check_rate(
    tables: Tables,
    symbols: np.ndarray,
    index: np.ndarray | None = None,
    *,
    factor: float,
    **options,
) -> float:
    """Words and heads cost at most factor * -sum(log2 p) + 32 bits per lane; returns the ratio.

    factor is DRAWN for symbols drawn from the tables at precision 16, WORST for any sequence.
    """
    row = 0 if index is None else np.asarray(index)
    column = np.asarray(symbols) - np.asarray(tables.offset)[row]
    frequencies = (np.asarray(tables.entries)[row, column] >> 16).astype(np.float64) + 1
    ideal_bits = (tables.precision - np.log2(frequencies)).sum()
    stream = encode(tables, *_arrays(symbols, index), **options)
    bits = 16 * int(np.sum(stream.size)) + LANE_BITS * stream.head.size
    assert bits <= factor * ideal_bits + LANE_BITS * stream.head.size, (
        f"{bits} bits for an ideal of {ideal_bits:.0f} and {stream.head.size} lanes"
    )
    return bits / ideal_bits


def check_entropy_model(
    model: EntropyModel, params: Any, symbols: np.ndarray, *side: np.ndarray, lanes: int = 16
) -> float:
    """Coding integers costs what bits says, to 0.5 % and 32 bits per lane; returns the ratio.

    side must be at its quantised values already. The bytes are counted, escapes and header too. The
    round trip is exact, with int32's extremes among the symbols as well. One trace per shape.
    """
    tables = model.tables(params)
    check_tables(tables)
    assert tables.escape
    index = np.asarray(model.index(params, symbols.shape, *side))
    assert index.dtype == np.int32 and index.shape == symbols.shape
    chex.clear_trace_counter()
    traced_once = jax.jit(chex.assert_max_traces(model.bits, n=1))
    traced_once(params, jnp.zeros(symbols.shape, jnp.float32), *side)
    bits = traced_once(params, jnp.asarray(symbols, jnp.float32), *side)
    assert bits.dtype == jnp.float32 and bits.shape == symbols.shape
    said = np.asarray(bits, np.float64).sum()
    # Streams of one shape, so that what codes them is compiled once.
    stream = encode(tables, symbols, index, lanes=lanes)
    np.testing.assert_array_equal(decode(tables, stream, index), symbols)
    actual = 8 * len(to_bytes(stream))
    assert abs(actual - said) <= RATE_TOLERANCE * said + LANE_BITS * lanes, (
        f"{actual} bits where bits() says {said:.0f}, with {lanes} lanes"
    )
    strange = symbols.copy().reshape(-1)
    strange[:: max(1, len(strange) // 100)] = -(1 << 31)
    strange[1 :: max(1, len(strange) // 50)] = (1 << 31) - 1
    strange = strange.reshape(symbols.shape)
    stream = encode(tables, strange, index, lanes=lanes)
    np.testing.assert_array_equal(decode(tables, stream, index), strange)
    return actual / said


@optimised(True)
def check_codec(codec: Codec, image: np.ndarray, **options: Any) -> tuple[np.ndarray, Payload]:
    """decode(p, encode(p, x)) == apply(p, x).x_hat, bit for bit; returns (x_hat, payload)."""
    params = codec.init()
    payload = codec.encode(params, image, **options)
    shaped = Payload({**payload.header, "shape": list(image.shape)}, payload.sections)
    decoded = np.asarray(codec.decode(params, shaped))
    expected, bits = codec.apply(params, image, **options)
    assert decoded.dtype == np.uint8 and decoded.shape == image.shape
    np.testing.assert_array_equal(decoded, np.asarray(expected))
    assert np.isfinite(bits) and bits > 0
    return decoded, payload


@optimised(True)
def check_measure(measure: Callable[..., jax.Array], *arguments: np.ndarray) -> jax.Array:
    """One float32 per measurement, the same under jit, traced once for one shape."""
    value = measure(*arguments)
    assert value.dtype == jnp.float32
    traced_once = jax.jit(chex.assert_max_traces(measure, n=1))
    np.testing.assert_allclose(traced_once(*arguments), value, rtol=1e-5)
    traced_once(*(argument[::-1] for argument in arguments))
    return value


def float_primitives(function: Callable[..., Any], *arguments: Any) -> set[str]:
    """The primitives in a function's jaxpr, inner ones too, that read or write a float."""
    found = set()

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            inner = jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr)
            for each in filter(_is_jaxpr, inner):
                walk(getattr(each, "jaxpr", each))
            avals = [v.aval for v in (*equation.invars, *equation.outvars)]
            if any(jnp.issubdtype(getattr(a, "dtype", jnp.int32), jnp.inexact) for a in avals):
                found.add(str(equation.primitive))

    walk(jax.make_jaxpr(function)(*arguments).jaxpr)
    return found


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, jax.extend.core.Jaxpr | jax.extend.core.ClosedJaxpr)


@optimised(True)
def check_same_everywhere(function: Callable[..., Any], params: Any, x: Any) -> np.ndarray:
    """function(params, x), and for it the same bits however and wherever it runs.

    x has a leading batch of a multiple of 8. With and without jit, one by one, under vmap, with
    XLA's fast math, with float32 and bfloat16 products by default, on eight devices, and on a GPU
    where there is one.
    """
    expected = np.asarray(jax.jit(function)(params, x))
    ways = {}
    with jax.disable_jit():
        ways["no jit"] = function(params, x)
    one = jax.jit(function)
    ways["batch 1"] = np.concatenate([one(params, x[i : i + 1]) for i in range(len(x))])
    ways["vmap"] = jax.jit(jax.vmap(function, (None, 0)))(params, x)
    fast = jax.jit(function).lower(params, x)
    ways["fast math"] = fast.compile(compiler_options={"xla_cpu_enable_fast_math": True})(params, x)
    for precision in ("float32", "bfloat16"):
        with jax.default_matmul_precision(precision):
            ways[precision] = jax.jit(function)(params, x)
    mesh = jax.sharding.Mesh(np.array(jax.devices("cpu")[:8]), ("b",))
    put = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("b"))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    ways["8 devices"] = jax.jit(function)(jax.device_put(params, whole), jax.device_put(x, put))
    for gpu in [device for device in jax.devices() if device.platform == "gpu"][:1]:
        ways["gpu"] = jax.jit(function)(*jax.device_put((params, x), gpu))
    for way, value in ways.items():
        assert value.dtype == expected.dtype, way
        np.testing.assert_array_equal(np.asarray(value), expected, err_msg=way)
    return expected


@optimised(True)
def check_integer_net(net: Any, variables: Any, x: np.ndarray, *, source: Any, target: Any) -> Any:
    """A network of integer layers: no float when it runs, the same everywhere, and as trained.

    x f32[8 n, ...] is what it is trained on. Returns what it runs with, and the integers it gives.
    """
    integers = to_integers(net, variables, x)
    inputs = quantise(x, source)
    assert not float_primitives(net.apply, integers, inputs)
    y = check_same_everywhere(net.apply, integers, inputs)
    assert y.dtype == target.dtype
    np.testing.assert_array_equal(jax.jit(net.apply)(variables, x), dequantise(y, target))
    return integers, y


@optimised(True)
def check_leaf(leaf: Any, seed: int = 0) -> np.ndarray:
    """A compressed leaf multiplies as its dense weight does, whole and sliced; returns it dense.

    Leading axes that all parts have may be sliced off; nbytes is what the parts hold.
    """
    dense = np.asarray(leaf.dense(), np.float64)
    assert leaf.shape == dense.shape and leaf.dense().dtype == leaf.dtype
    assert leaf.nbytes == sum(np.asarray(part).nbytes for part in jax.tree.leaves(leaf))
    axes = [axis for axis, _ in leaf.packed]
    sizes = [size for _, size in leaf.packed]
    x = np.random.default_rng(seed).normal(size=(3, *sizes)).astype(np.float32)
    out = np.asarray(jax.jit(dot)(x, leaf), np.float64)
    expected = np.tensordot(x.astype(np.float64), dense, (range(1, 1 + len(sizes)), axes))
    scale = np.abs(expected).max() + 1e-30
    np.testing.assert_allclose(out / scale, expected / scale, atol=2e-5)
    first = -leaf.ndim
    parts = jax.tree.leaves(leaf)
    if first not in axes and all(part.shape[0] == dense.shape[0] for part in parts):
        inner = jax.tree.map(lambda part: part[-1], leaf)
        if len(inner.shape) > len(axes):
            np.testing.assert_array_equal(np.asarray(inner.dense(), np.float64), dense[-1])
    return dense


@optimised(True)
def check_transform(method: Any, w: np.ndarray, *, axes: int = -2, state: Any = None) -> Any:
    """A Transform of jaxcomp.weights keeps the law of its folder on w; returns the leaf of w.

    On the grid: the dense array of its own leaf, whose groups reach from the lowest to the highest
    level where a zero is stored per group. Its leaf multiplies as its dense array does.
    """
    leaf = method.compress(jnp.asarray(w), state, (axes,))
    dense = check_leaf(_spanning(leaf)).astype(np.float32)
    again = method.compress(jnp.asarray(dense, w.dtype), state, (axes,))
    np.testing.assert_array_equal(np.asarray(again.dense(), np.float32), dense)
    return leaf


@optimised(True)
def check_lift(fn: Callable[..., Any], params: Any, *arguments: Any, atol: float = 1e-4) -> Any:
    """lift(fn)(compressed) equals fn on the dense weights of the same leaves; returns the report.

    With and without jit.
    """
    lifted = lift(fn)
    dense = jax.tree.map(to_dense, params, is_leaf=is_compressed)
    expected = jax.jit(fn)(dense, *arguments)
    for found in (lifted(params, *arguments), jax.jit(lifted)(params, *arguments)):
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert a.dtype == b.dtype and a.shape == b.shape
            np.testing.assert_allclose(
                np.asarray(a, np.float32), np.asarray(b, np.float32), rtol=1e-3, atol=atol
            )
    return lifted.report(params, *arguments)


def _spanning(leaf: Any) -> Any:
    """A QTensor with zeros, its first two codes of each group made the lowest and the highest."""
    if not isinstance(leaf, QTensor) or leaf.zeros is None:
        return leaf
    axis, format = merged_axis(leaf.packed), leaf.format
    codes = np.moveaxis(np.array(unpacked(leaf.codes, format, axis)), axis, -1)
    group = codes.shape[-1] if format.group in (-1, None) else format.group
    codes[..., ::group], codes[..., 1::group] = 0, (1 << format.bits) - 1
    codes = jnp.asarray(np.moveaxis(codes, -1, axis))
    if leaf.codes.dtype == jnp.int8:
        kept = (codes - 128).astype(jnp.int8)
    else:
        kept = pack(codes.astype(jnp.uint8), format.bits, axis=axis, tile=format.tile)
    return dataclasses.replace(leaf, codes=kept)


@optimised(True)
def check_cache(
    cache: Any,
    *,
    heads: int = 2,
    shared: int = 2,
    size: int = 16,
    tolerance: float | None = 1e-5,
    alone: bool = True,
) -> Any:
    """A KVCache of jaxcomp.kvcache keeps the law of its folder; returns the state after 24 tokens.

    Attention over what it holds is exact, or off by at most `tolerance` of its root mean square;
    None is for caches that drop tokens. One program appends any token; its state has the same
    shapes before and after, and the bytes of its arrays; sequences can be taken apart; vmap over
    states is a loop over them. alone=False leaves this last sentence, which takes one more program,
    to the tests of the engine that the cache is built on.
    """
    batch, count = 2, 24
    keys = jax.random.split(jax.random.key(7), 3)
    q, k, v = (
        jax.random.normal(key, (batch, count, n, size))
        for key, n in zip(keys, (heads * shared, heads, heads), strict=True)
    )
    first = cache.init(batch, heads, size)
    assert all(x.shape[0] == batch for x in jax.tree.leaves(first)), "batch is the first axis"

    def step(state, new):
        q, k, v = (x[:, None] for x in new)
        state = cache.append(state, k, v, queries=q)
        out, state = cache.attend(state, q)
        return state, out[:, 0]

    decode = jax.jit(lambda state, *new: jax.lax.scan(step, state, new), donate_argnums=0)
    copy = jax.tree.map(jnp.copy, first)
    state, out = decode(copy, *(x.swapaxes(0, 1) for x in (q, k, v)))
    assert jax.tree.structure(state) == jax.tree.structure(first)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(state), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
    assert nbytes(state) == sum(x.nbytes for x in jax.tree.leaves(state))
    assert out.shape == (count, batch, heads * shared, size) and bool(jnp.isfinite(out).all())

    if tolerance is not None:
        exact = np.asarray(jax.nn.dot_product_attention(q, k, v, is_causal=True).swapaxes(0, 1))
        off = np.sqrt(np.square(out - exact).mean() / np.square(exact).mean())
        assert off <= tolerance, off

    # Sequences do not know of each other: each alone, and all by vmap, come to the same.
    if alone:
        apart = [cache.init(1, heads, size) for _ in range(batch)]
        stacked = jax.tree.map(lambda *x: jnp.stack(x), *apart)
        one = jax.vmap(lambda state, *new: jax.lax.scan(step, state, new))
        _, each = jax.jit(one)(stacked, *(x[:, :, None] for x in (q, k, v)))
        np.testing.assert_allclose(each[:, :, 0].swapaxes(0, 1), out, atol=1e-4)
    forked = take(state, jnp.array([1, 1, 0]))
    again, _ = cache.attend(forked, jnp.stack([q[1, -1:], q[1, -1:], q[0, -1:]]))
    np.testing.assert_allclose(again[:, 0], out[-1, jnp.array([1, 1, 0])], atol=1e-5)
    return state
