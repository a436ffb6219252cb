"""One primitive, many platforms: what is traced where, and under which transformations it lives."""

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, PartitionSpec

from jaxcomp.kernels import dispatch

CPU_PROGRAM = """
import sys, jax, jax.numpy as jnp
from jaxcomp.kernels import rans_decode, rans_encode
head, plane = jnp.full((1, 2), 1 << 16, jnp.uint32), jnp.full((1, 3, 2), 99 << 16, jnp.uint32)
head, words, size = rans_encode.run(head, plane, 6, precision=12)
tables = jnp.full((1, 1), 4095 << 16, jnp.uint32), None
rans_decode.run(head, words, size, tables, None, 6, precision=12, steps=3)
print("jax.experimental.pallas" in sys.modules)
"""


def test_a_cpu_never_loads_pallas():
    done = subprocess.run([sys.executable, "-c", CPU_PROGRAM], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


traced = []


def _plain(x, y, *, scale):
    traced.append("reference")
    return x + scale * y, y.sum(1)


def _kernel(x, y, *, scale):
    traced.append("kernel")
    return x - scale * y, y.sum(1)


def _fold(batch, arrays, **static):
    results = toy(*(dispatch.spread(x, batch) for x in arrays), **static)
    return tuple(r.reshape(batch, -1, *r.shape[1:]) for r in results)


toy = dispatch.primitive(
    "toy",
    shapes=lambda x, y, scale: [(x.shape, x.dtype), (x.shape[:1], x.dtype)],
    reference=_plain,
    kernels={"cuda": _kernel},
    fold=_fold,
)


def _inputs():
    return jnp.arange(24.0).reshape(8, 3), jnp.ones((8, 3))


def test_only_the_platform_lowered_for_is_traced():
    traced.clear()
    program = jax.jit(functools.partial(toy, scale=2)).trace(*_inputs())
    assert traced == []
    on_cpu = program.lower(lowering_platforms=("cpu",)).as_text()
    assert traced == ["reference"] and "stablehlo.subtract" not in on_cpu
    on_gpu = program.lower(lowering_platforms=("cuda",)).as_text()
    assert traced == ["reference", "kernel"] and "stablehlo.subtract" in on_gpu


def test_it_lives_under_every_transformation():
    x, y = _inputs()
    expected = x + 2 * y
    call = functools.partial(toy, scale=2)
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("d")
    sharded = jax.shard_map(call, mesh=mesh, in_specs=(spec, PartitionSpec()), out_specs=spec)
    with jax.disable_jit():
        np.testing.assert_array_equal(call(x, y)[0], expected)
    np.testing.assert_array_equal(call(x, y)[0], expected)
    np.testing.assert_array_equal(jax.jit(sharded)(x, y[:1])[0], expected)
    np.testing.assert_array_equal(sharded(x, y[:1])[0], expected)
    np.testing.assert_array_equal(jax.pmap(call)(x[:, None], y[:, None])[0][:, 0], expected)
    np.testing.assert_array_equal(jax.vmap(call)(x[:, None], y[:, None])[0][:, 0], expected)
    nested = jax.vmap(jax.vmap(call, in_axes=(None, 0)), in_axes=(0, None))
    np.testing.assert_array_equal(nested(jnp.stack([x, y]), y[None])[0][0, 0], expected)
    last, _ = lax.scan(lambda c, _: (call(c, y)[0], None), x, length=3)
    np.testing.assert_array_equal(last, x + 6)
