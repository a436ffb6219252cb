"""The inverse of freezing: floats to train on, of weights that only hold integers and tables.

Networks come back as the values of their integers, gains as those of the octaves. Densities of side
information are fitted to their tables. What was counted after training (latent_calibration) is not
known to training, and is counted again in the end.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Int, Integer

from jaxcomp.base import EntropyModel
from jaxcomp.nets.integer import from_integers

from .latent_codec import GAIN_BITS, Design, example, joined, networks
from .latent_frozen import Frozen, to_arrays
from .latent_prior import LEVEL_BITS

FIT_STEPS, FIT_RATE = 1000, 0.03


def thaw(design: Design, frozen: Frozen) -> dict[str, Any]:
    """Parameters, as init gives them, of a codec that codes as frozen does."""
    nets = networks(design)
    latents, *modes = example(design)
    level = jnp.zeros(1, jnp.int32)
    prior = {**frozen.prior, **frozen.prior_integers}
    octaves = np.asarray(frozen.inverse_gains)[:: 1 << LEVEL_BITS]
    log_gain = -np.log(octaves.astype(np.float32) / (1 << GAIN_BITS))
    params = {
        "analysis": frozen.analysis,
        "prior": from_integers(nets.prior, prior, latents, level, *modes),
        "synthesis": from_integers(
            nets.synthesis, frozen.synthesis_integers, joined(latents, *modes), *modes
        ),
        "side": fitted(nets.side, **to_arrays(frozen)["side"]) if design.side else nets.side.init(),
        "gain": {"params": {"log_gain": log_gain}},
    }
    return jax.tree.map(jnp.asarray, params)


def fitted(
    model: EntropyModel, frequencies: Integer[np.ndarray, "c n"], offset: Int[np.ndarray, " c"]
) -> Any:
    """Parameters of a model with a table per channel that say about what its tables say."""
    pmf = frequencies[:, :-1].T.astype(np.float32)  # without escapes
    values = offset + np.arange(len(pmf))[:, None]
    values, pmf = values.astype(np.float32), pmf / pmf.sum(0)
    transform = optax.adam(optax.cosine_decay_schedule(FIT_RATE, FIT_STEPS))

    @jax.jit
    def fit(params):
        def step(state, _):
            params, optimizer = state
            gradient = jax.grad(lambda p: (pmf * model.bits(p, values)).sum())(params)
            updates, optimizer = transform.update(gradient, optimizer)
            return (optax.apply_updates(params, updates), optimizer), None

        return jax.lax.scan(step, (params, transform.init(params)), length=FIT_STEPS)[0][0]

    return fit(model.init())
