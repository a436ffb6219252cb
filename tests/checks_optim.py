"""The laws of jaxcomp.optim, each once, as code."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.optim import dense_mean, wire_nbytes
from tests.compiling import optimised

KEYS = 128  # that a mean over keys is of


@optimised(True)
def check_compressor(compressor: Any, inputs: np.ndarray) -> np.ndarray:
    """A Compressor of jaxcomp.optim keeps the law of its folder on inputs f32[n, even size].

    Returns E|x_hat - x|^2 / |x|^2 of each. Zeros, NaN and infinity are tried too; vmap and scan
    make one wire, of wire_nbytes. Means are judged to four or five standard errors.
    """
    bad = inputs[:1] * np.array([[0], [1], [1]])
    bad[1:, 7] = np.nan, np.inf
    rows = np.concatenate([inputs, bad]).astype(np.float32).reshape(-1, 2, inputs.shape[1] // 2)
    keys = np.random.default_rng(3).integers(0, 1 << 32, (KEYS, 2), np.uint32)

    def send(key, x):
        wire, state = compressor.compress(key, x, compressor.init(x))
        assert jax.tree.structure(state) == jax.tree.structure(compressor.init(x))
        return wire, compressor.decompress(wire)

    def step(key, x):
        return key, send(key, x)[0]

    wires, every = jax.jit(jax.vmap(jax.vmap(send, (None, 0)), (0, None)))(keys, rows)
    looped = jax.jit(lambda key, rows: jax.lax.scan(step, key, rows)[1])(keys[1], rows)
    nbytes_each = sum(x.nbytes for x in jax.tree.leaves(looped)) / len(rows)
    assert wire_nbytes(compressor, rows[0]) == nbytes_each
    assert (every.shape, every.dtype) == ((KEYS, *rows.shape), rows.dtype)
    for a, b in zip(*map(jax.tree.leaves, (wires, looped)), strict=True):
        if a.dtype == jnp.float32:  # sums, in an order of the compiler's
            size = np.abs(np.where(np.isfinite(b), b, 0)).max(-1, keepdims=True)
            size = np.where(size == 0, 1, size)
            np.testing.assert_allclose(a[1] / size, b / size, rtol=1e-6, atol=1e-6)
        else:
            np.testing.assert_allclose(a[1], b, rtol=0)
    every = np.asarray(every, np.float64).reshape(KEYS, len(rows), -1)
    assert (every[:, -3] == 0).all() and not np.isfinite(every[:, -2:]).all(-1).any()
    every, x = every[:, :-3], inputs.astype(np.float64)
    square = np.square(x).sum(-1)
    error = np.square(every - x).sum(-1) / square  # [keys, n]
    mean, deviation = error.mean(0), error.std(0) / KEYS**0.5
    for bound, constant in ((1, compressor.contraction), (0, compressor.variance)):
        if constant is not None:
            most = abs(bound - constant(x.shape[1]))
            assert (mean <= most + 4 * deviation + 1e-5).all(), (mean, most)
    if compressor.variance is not None:
        along = (every * x).sum(-1) / square
        assert (abs(along.mean(0) - 1) <= 5 * along.std(0) / KEYS**0.5 + 1e-5).all(), along.mean(0)
        assert (np.square(every.mean(0) - x).sum(-1) <= 9 * mean / KEYS * square + 1e-9).all()
    return mean


@optimised(True)
def check_exchange(make: Any, inputs: np.ndarray) -> np.ndarray:
    """An Exchange of jaxcomp.optim keeps the law of its folder; make("senders") builds it.

    inputs f32[senders, n]: what each sender has, at most eight. Returns the mean that they get.
    Devices and lanes of vmap are compared; the bytes are those of the collectives; NaN is seen.
    """
    exchange, senders = make("senders"), len(inputs)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:senders]), ("senders",))
    along = jax.sharding.PartitionSpec("senders")
    key = np.array([1, 2], np.uint32)

    def steps(x):  # two of them, and one with a NaN
        state = exchange.init(x)
        a = exchange.mean(key, x, state)
        b = exchange.mean(key + 1, x, a[2])
        assert jax.tree.structure(b[2]) == jax.tree.structure(state)
        bad = jnp.where(jax.lax.axis_index("senders") == senders - 1, jnp.nan, 0)
        return a[:2], b[:2], exchange.mean(key, x.at[0].add(bad), state)[1]

    def alone(x):
        return jax.tree.map(lambda y: y[None], steps(x[0]))

    on_devices = jax.shard_map(alone, mesh=mesh, in_specs=along, out_specs=along, check_vma=False)
    lanes = jax.jit(jax.vmap(steps, axis_name="senders"))(inputs)
    found = jax.jit(on_devices)(inputs)
    for a, b in zip(*map(jax.tree.leaves, (found, lanes)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    (sent, mean), (again, later), bad = jax.tree.map(np.asarray, found)
    for each in (mean, later):
        np.testing.assert_array_equal(each, np.broadcast_to(each[:1], each.shape))
    assert not np.isfinite(bad).all(-1).any()  # all of them see what one of them has
    assert sent.dtype == mean.dtype == np.float32 and sent.shape == mean.shape == inputs.shape
    # What is owed of one mean comes with the next.
    off = np.linalg.norm(mean - sent.mean(0)) + 1e-6 * np.linalg.norm(mean)
    assert np.linalg.norm(later + mean - (sent + again).mean(0)) <= 1.5 * off
    return mean[0]


@optimised(True)
def check_rounds(make: Any) -> None:
    """A Rounds of jaxcomp.optim keeps its law; make(exchange, local_rate=0.2) builds it.

    With all clients, one local step and the mean as it is, a round is a step of descent. Who stays
    out changes nothing, whatever it has; a client that is not finite makes a round that was not.
    """
    centres = np.random.default_rng(6).normal(size=(4, 5)).astype(np.float32)
    method = make(dense_mean("clients"), local_rate=0.2)
    part = np.ones((6, 4), bool)
    part[3] = part[5, 2] = False
    add = np.zeros((6, 4), np.float32)
    add[4:, 2] = np.nan

    def client(centre, part, add):
        def one(carry, given):
            batch, taking_part = centre[None] + given[0], given[1]
            carry = method.round(*carry, lambda x, wanted: x - wanted, batch, taking_part)
            return carry, carry

        start = jnp.zeros(5), method.init(jnp.zeros(5))
        return jax.lax.scan(one, start, (add, part))[1]

    run = jax.jit(jax.vmap(client, in_axes=(0, 1, 1), axis_name="clients"))
    path, states = run(centres, part, add)
    x = np.zeros(5)
    for t in range(3):
        x = x - 0.2 * (x - centres.mean(0))
        np.testing.assert_allclose(path[:, t], np.broadcast_to(x, (4, 5)), rtol=1e-5, atol=1e-6)
    kept = (path, states.control, states.own)
    for t in (3, 4):
        jax.tree.map(lambda a, t=t: np.testing.assert_array_equal(a[:, t], a[:, 2]), kept)
    assert np.isfinite(path).all() and (path[:, 5] != path[:, 4]).any(1).all()
    assert (states.log.skipped[:, -1] == 1).all() and states.uplinks.value.value[2, -1] == 4
