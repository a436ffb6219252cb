"""Steps of optimizers on blocks: arguments with a state that is not zero."""

import jax.numpy as jnp
import numpy as np

from jaxcomp.kernels import adam8bit
from jaxcomp.kernels.dynamic_map import LINEAR4, SIGNED, SIGNED4, UNSIGNED

STATIC = {"rule": adam8bit.adam, "maps": (SIGNED, UNSIGNED), "block": 256}
FOUR = {"rule": adam8bit.adam, "maps": (SIGNED4, LINEAR4), "block": 256}
MIXED = {"rule": adam8bit.adam, "maps": (SIGNED, LINEAR4), "block": 256}
LION = {"rule": adam8bit.lion, "maps": (SIGNED,), "block": 128}
MOMENTUM = {"rule": adam8bit.momentum, "maps": (SIGNED,), "block": 512}
NUMBERS = {
    adam8bit.adam: [0.9, 0.1, 0.999, 0.001, 2.0, 0.3, 30.0, 1e-12, 1e-8],
    adam8bit.lion: [0.99, 0.01, 0.9, 0.1],
    adam8bit.momentum: [0.9, 1.0, 0.9, 1.0],
}


def case(static, *, rows, blocks=2, seed=0):
    """g, numbers, codes, scales, ... of [rows, blocks * block]."""
    random = np.random.default_rng(seed)
    n = blocks * static["block"]
    g = random.normal(size=(rows, n)) * np.exp(random.normal(size=(rows, n)))
    arrays = [jnp.asarray(g, jnp.float32), jnp.array(NUMBERS[static["rule"]], jnp.float32)]
    for map in static["maps"]:
        codes = random.integers(0, 256, (rows, n * map.bits // 8), dtype=np.uint8)
        scales = random.uniform(0.5, 1, (rows, blocks)).astype(np.float32)
        arrays += [jnp.asarray(codes), jnp.asarray(scales)]
    return arrays
