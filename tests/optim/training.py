"""A run that can be killed: `python tests/optim/training.py FOLDER STEPS` prints step and loss, and
goes on from the last step that FOLDER holds."""

import os
import sys
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"

import jax  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
import orbax.checkpoint as ocp  # noqa: E402

from jaxcomp import optim  # noqa: E402

RANDOM = np.random.default_rng(0)
DATA = RANDOM.normal(size=(64, 16, 12)).astype(np.float32)
PARAMS = {"w": RANDOM.normal(size=(12, 7)).astype(np.float32), "b": np.zeros(7, np.float32)}
TRANSFORM = optax.chain(
    optim.error_feedback(optim.compressed_mean(optim.qsgd(2, block=16), "data")), optax.adam(0.01)
)


def step(params, state, batch):
    """One sender's."""

    def loss(params):
        return ((batch @ params["w"] + params["b"] - batch[:, :7]) ** 2).mean()

    value, gradients = jax.value_and_grad(loss)(params)
    updates, state = TRANSFORM.update(gradients, state, params)
    return optax.apply_updates(params, updates), state, value


def train(folder, steps):
    """Prints "step loss" once the step is saved."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    params = jax.device_put(PARAMS, whole)
    move = jax.jit(optim.on_senders(step, mesh, "data"))
    with ocp.CheckpointManager(folder, options=ocp.CheckpointManagerOptions(max_to_keep=2)) as kept:
        last = kept.latest_step()
        if last is None:
            last, state = 0, optim.init(TRANSFORM, params, mesh, "data")
        else:
            shape = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), params
            )
            place = (shape, optim.shapes(TRANSFORM, params, mesh, "data"))
            params, state = kept.restore(last, args=ocp.args.StandardRestore(place))
        for i in range(last, steps):
            params, state, loss = move(params, state, DATA[i])
            kept.save(i + 1, args=ocp.args.StandardSave((params, state)))
            kept.wait_until_finished()
            print(i + 1, np.asarray(loss).tobytes().hex(), flush=True)


if __name__ == "__main__":
    train(Path(sys.argv[1]).absolute(), int(sys.argv[2]))
