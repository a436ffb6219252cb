"""Keys and values of contexts that tests share."""

import numpy as np


def context(layers=2, tokens=600, heads=2, size=16, *, seed=0):
    """Keys that resemble those of the token before and have means, values that do neither; both
    with channels of different sizes."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(2, layers, tokens, heads, size))
    keys = noise[0]
    for at in range(1, tokens):
        keys[:, at] = 0.9 * keys[:, at - 1] + np.sqrt(1 - 0.9**2) * keys[:, at]
    spread = np.geomspace(0.5, 4, size)
    keys = keys * spread + 3 * rng.normal(size=(layers, 1, heads, size))
    return keys.astype(np.float32), noise[1].astype(np.float32)
