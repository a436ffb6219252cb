"""Arrays to compress: weights of models, states of a real run of Adam, Gaussian noise.

A set is {name: array}, in the order in which its bytes stand in files.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
from safetensors.numpy import load_file

import jaxcomp as jc
from benchmarks import optim_tasks
from benchmarks.models import stories

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
WIDTH, LAYERS, RATE = 256, 2, 1e-3  # 1.7 million parameters, 20 MB of state in float32
LAST = 300
AGO = 0, 1, 10, 100  # steps before the last one at which the state is kept


def minilm(folder: Path) -> dict[str, np.ndarray]:
    arrays = load_file(folder / "model.safetensors")
    return {name: arrays[name] for name in sorted(arrays)}


def resnet(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "cnn/resnet_cifar10/resnet56-4bfd9763.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def stories260k(folder: Path) -> dict[str, np.ndarray]:
    return named(stories.load(folder / "llm/stories260K")[0])


def gaussian(nbytes: int) -> dict[str, np.ndarray]:
    """bfloat16[n, 4096], of deviation 0.02."""
    rows = nbytes // 2 // 4096
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((rows, 4096), np.float32) * np.float32(0.02)
    return {"weight": noise.astype(BFLOAT16)}


def in_bfloat16(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {n: x.astype(BFLOAT16) if x.dtype == np.float32 else x for n, x in arrays.items()}


def named(tree) -> dict[str, np.ndarray]:
    return {path: np.asarray(x) for path, x in jc.tree.leaves(tree)}


def adam_states(
    task, *, dtype=jnp.float32, width=WIDTH, layers=LAYERS, last=LAST, ago=AGO
) -> dict[int, dict[str, np.ndarray]]:
    """{steps before the last: {"params/...", "adam/..."}} of the transformer of optim_tasks.

    Parameters of bfloat16 are rounded at random (jc.optim.stochastic_rounding); moments are
    float32 in either case. Each step has a batch of its own.
    """
    adam = optax.adam(RATE)
    rounding = jc.optim.stochastic_rounding()

    @jax.jit
    def run(params, state, first, stop):
        def step(i, carry):
            params, (moments, key) = carry
            wide = jax.tree.map(lambda p: p.astype(jnp.float32), params)
            batch = task.draw(task.data["train"], jax.random.fold_in(jax.random.key(1), i))
            gradients = jax.grad(optim_tasks.transformer_loss)(wide, batch)
            updates, moments = adam.update(gradients, moments, wide)
            updates, key = rounding.update(updates, key, params)
            return optax.apply_updates(params, updates), (moments, key)

        return jax.lax.fori_loop(first, stop, step, (params, state))

    wide = optim_tasks.transformer_init(jax.random.key(0), width, layers)
    params = jax.tree.map(lambda p: p.astype(dtype), wide)
    state, done, found = (adam.init(wide), rounding.init(params)), 0, {}
    for back in sorted(ago, reverse=True):
        params, state = run(params, state, done, last - back)
        done = last - back
        found[back] = named({"params": params, "adam": state[0]})
    return found


def write_raw(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """The bytes of all arrays, one after another."""
    with open(path, "wb") as file:
        for x in arrays.values():
            file.write(np.ascontiguousarray(x).reshape(-1).view(np.uint8))
