"""One process of several that save or restore one tree. Arguments: rank, processes, port, devices,
folder, and what to do: "save", "restore", or "loop", which saves steps until it is killed."""

import os
import sys

RANK, PROCESSES, PORT, DEVICES = map(int, sys.argv[1:5])
FOLDER, ACTION = sys.argv[5:]
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={DEVICES}"

import jax  # noqa: E402

if PROCESSES > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{PORT}", PROCESSES, RANK)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import orbax.checkpoint as ocp  # noqa: E402
from jax.sharding import NamedSharding, PartitionSpec  # noqa: E402

import jaxcomp as jc  # noqa: E402


def tree(mesh, step=0, rows=8):
    """Sharded by rows, by columns, and not at all; an array of NumPy and a number."""
    random = np.random.default_rng(step)
    w = random.normal(size=(rows, 8)).astype(np.float32)

    def put(x, *names):
        place = NamedSharding(mesh, PartitionSpec(*names))
        return jax.make_array_from_callback(x.shape, place, lambda index: x[index])

    whole = {f"whole{k}": put(w[k], None) for k in range(4)}
    columns = put(w.astype(jnp.bfloat16), None, "data")
    return {"rows": put(w, "data"), "columns": columns, **whole, "numpy": w[0], "step": step}


def arguments(wanted):
    target = jax.tree.map(
        lambda x: ocp.utils.to_shape_dtype_struct(x) if isinstance(x, jax.Array) else x, wanted
    )
    found = ocp.checkpoint_utils.construct_restore_args(target)
    return ocp.args.PyTreeRestore(target, restore_args=found)


def check(found, wanted):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        if isinstance(b, jax.Array):
            assert a.sharding == b.sharding
            for x, y in zip(a.addressable_shards, b.addressable_shards, strict=True):
                np.testing.assert_array_equal(np.asarray(x.data), np.asarray(y.data))
        else:
            np.testing.assert_array_equal(a, b)


def main():
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    handler = jc.io.orbax_handler()
    if ACTION == "loop":
        options = ocp.CheckpointManagerOptions(max_to_keep=2)
        with ocp.CheckpointManager(FOLDER, item_handlers=handler, options=options) as manager:
            last = manager.latest_step()
            if last is not None:
                wanted = tree(mesh, last, 1 << 14)
                check(manager.restore(last, args=arguments(wanted)), wanted)
            print("found", last, flush=True)
            for step in range((last or 0) + 1, 10**6):
                manager.save(step, args=ocp.args.PyTreeSave(tree(mesh, step, 1 << 14)))
                print("save", step, flush=True)
    with ocp.AsyncCheckpointer(handler) as checkpointer:
        if ACTION == "save":
            checkpointer.save(FOLDER, args=ocp.args.PyTreeSave(tree(mesh)))
            checkpointer.wait_until_finished()
        else:
            check(checkpointer.restore(FOLDER, args=arguments(tree(mesh))), tree(mesh))
            print("same", flush=True)


if __name__ == "__main__":
    main()
    if PROCESSES > 1:
        jax.distributed.shutdown()
