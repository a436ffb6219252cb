"""Two halves: the wire of an all-reduce, sums in float32, and feedback of the second half."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp import optim
from jaxcomp.formats import INT8
from tests.checks_optim import check_exchange

RANDOM = np.random.default_rng(0)
INPUTS = RANDOM.normal(size=(8, 2048)).astype(np.float32)


def test_the_identity_is_the_mean_in_the_order_of_senders():
    mean = check_exchange(optim.dense_mean, INPUTS[:, :61])  # divided by no number of senders
    total = np.float32(0)
    for each in INPUTS[:, :61]:
        total = total + each
    np.testing.assert_array_equal(mean, total / 8)


def test_int8_both_ways():
    mean = check_exchange(lambda axis: optim.compressed_mean(optim.quantized(INT8), axis), INPUTS)
    off = np.linalg.norm(mean - INPUTS.mean(0)) / np.linalg.norm(INPUTS.mean(0))
    assert 1e-4 < off < 0.03


def test_feedback_of_the_second_half_sends_what_is_owed():
    def owed(remembers):
        exchange = optim.compressed_mean(
            optim.identity(), "senders", second=optim.sign(block=256), remembers=remembers
        )

        def run(x):
            def step(state, i):
                _, mean, state = exchange.mean(jnp.zeros(2, jnp.uint32), x, state)
                return state, mean

            return jax.lax.scan(step, exchange.init(x), jnp.arange(30))[1].mean(0)

        found = jax.jit(jax.vmap(run, axis_name="senders"))(INPUTS)[0]
        return np.linalg.norm(found - INPUTS.mean(0)) / np.linalg.norm(INPUTS.mean(0))

    assert owed(True) < 0.15 and owed(False) > 0.5


def test_int8_arrays_cross_the_links_and_their_bytes_are_counted():
    exchange = optim.compressed_mean(optim.quantized(INT8), "senders")
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("senders",))
    along = jax.sharding.PartitionSpec("senders")
    counted = []

    def one(x):
        counted.append(exchange.nbytes(x[0]))
        return exchange.mean(jnp.zeros(2, jnp.uint32), x[0], exchange.init(x[0]))[1][None]

    run = jax.jit(jax.shard_map(one, mesh=mesh, in_specs=along, out_specs=along))
    program = run.lower(INPUTS).compile().as_text()
    moved = [
        line for line in program.splitlines() if " all-to-all(" in line or " all-gather(" in line
    ]
    assert sum("s8[" in line or "u8[" in line for line in moved) == 2
    assert not any("f32[" in line and "2048" in line for line in moved)
    scales = 2048 // 256 * INPUTS.itemsize // 2  # bfloat16
    assert counted[0] == 2 * 7 * (2048 + scales) // 8
