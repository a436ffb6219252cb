"""One process of a run; prints its losses as bytes. Arguments: rank, processes, port, devices."""

import os
import sys

RANK, PROCESSES, PORT, DEVICES = map(int, sys.argv[1:])
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={DEVICES}"

import jax  # noqa: E402

if PROCESSES > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{PORT}", PROCESSES, RANK)

import numpy as np  # noqa: E402
import optax  # noqa: E402
from jax.sharding import NamedSharding, PartitionSpec  # noqa: E402

from jaxcomp import optim  # noqa: E402

RANDOM = np.random.default_rng(0)
DATA = RANDOM.normal(size=(PROCESSES * DEVICES * 4, 12)).astype(np.float32)
PARAMS = {"w": RANDOM.normal(size=(12, 7)).astype(np.float32), "b": np.zeros(7, np.float32)}
METHODS = {
    "identity": optim.compressed(optim.dense_mean("data")),
    "sign": optim.error_feedback(optim.compressed_mean(optim.sign(block=16), "data")),
    "top_k": optim.ef21(optim.gathered(optim.top_k(0.2), "data")),
}


def losses(transform, mesh):
    """f32[steps] of a small regression with momentum."""
    chain = optax.chain(transform, optax.sgd(0.05, momentum=0.9))

    def step(params, state, batch):
        def loss(params):
            return ((batch @ params["w"] + params["b"] - batch[:, :7]) ** 2).mean()

        value, gradients = jax.value_and_grad(loss)(params)
        updates, state = chain.update(gradients, state, params)
        value = jax.lax.all_gather(value, "data")
        return optax.apply_updates(params, updates), state, value

    whole, rows = (NamedSharding(mesh, spec) for spec in (PartitionSpec(), PartitionSpec("data")))
    params = jax.tree.map(lambda x: put(x, whole), PARAMS)
    state = optim.init(chain, params, mesh, "data")
    move, batch, found = jax.jit(optim.on_senders(step, mesh, "data")), put(DATA, rows), []
    for _ in range(10):
        params, state, value = move(params, state, batch)
        found.append(np.asarray(value.addressable_data(0)).reshape(-1))
    return np.stack(found)


def put(x, sharding):
    """A host array that every process has, on the devices of all."""
    return jax.make_array_from_callback(x.shape, sharding, lambda place: x[place])


if __name__ == "__main__":
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    for name, transform in METHODS.items():
        print(name, losses(transform, mesh).tobytes().hex(), flush=True)
    if PROCESSES > 1:
        jax.distributed.shutdown()
