"""Trees on meshes of one, two and eight devices, and what asks Orbax for them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxcomp.io.tree_nodes import DTYPES

NARROW = tuple(name for name in DTYPES if name not in ("int64", "uint64", "float64", "complex128"))
FEW = ("bfloat16", "float32", "int4")
MESHES = {1: (1, 1), 2: (2, 1), 8: (4, 2)}


def mesh(devices):
    return jax.make_mesh(
        MESHES[devices],
        ("data", "model"),
        axis_types=(AxisType.Auto,) * 2,
        devices=jax.devices()[:devices],
    )


def place(x, devices, *names):
    return jax.device_put(x, NamedSharding(mesh(devices), P(*names)))


def arguments(tree, **options):
    """To restore what this tree is, where it is."""
    known = jax.Array, jax.ShapeDtypeStruct
    target = jax.tree.map(
        lambda x: ocp.utils.to_shape_dtype_struct(x) if isinstance(x, known) else x, tree
    )
    found = ocp.checkpoint_utils.construct_restore_args(target, **options)
    return ocp.args.PyTreeRestore(target, restore_args=found)


def bits(x):
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    x = np.asarray(x)
    return x.dtype, x.shape, x.tobytes()


def same(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        if isinstance(b, (jax.Array, np.ndarray)):
            assert isinstance(a, jax.Array) == isinstance(b, jax.Array)
            assert bits(a) == bits(b)
            assert not isinstance(b, jax.Array) or a.sharding == b.sharding
        else:
            assert a == b


@functools.cache
def a_tree(devices, turned=False, dtypes=NARROW):
    """Random bits in many dtypes, so NaN payloads, -0.0 and denormals too."""
    random = np.random.default_rng(0)
    names = ("model", "data") if turned else ("data", "model")
    tree = {}
    for name in dtypes:
        dtype = np.dtype(getattr(jnp, name, name))
        values = random.integers(0, 2 if name == "bool" else 256, (8, 4, dtype.itemsize), np.uint8)
        if name[-1] in "24" and name[-2] == "t":
            values &= 2 ** int(name[-1]) - 1  # what is above the bits of an int4 is no value
            values = values.view(dtype).astype(np.int8).astype(dtype)
        elif name == "float4_e2m1fn":
            values &= 15
        tree[name] = place(values.view(dtype).reshape(8, 4), devices, *names)
    tree["row"] = place(np.arange(8, dtype=np.int32), devices, None if turned else "data")
    tree["scalar"] = place(np.float32(-0.0), devices)
    tree["none"] = place(np.zeros((0, 3), np.float32), devices)
    tree["keys"] = place(jax.random.split(jax.random.key(3), 8), devices, "data")
    tree["wide"] = random.normal(size=(3, 5))
    tree["step"], tree["text"] = 7, "seven"
    return tree
