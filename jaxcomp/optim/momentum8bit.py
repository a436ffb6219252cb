"""Gradient descent with its momentum in 8 bits: one byte and a little an entry.

    m = momentum m + g,   update = -rate m,   or -rate (g + momentum m) by Nesterov

Blocks and codes as in adam8bit (Dettmers et al., 8-bit Optimizers via Block-wise Quantization, ICLR
2022, section 2.1).
"""

from typing import Any

import optax
from jax.typing import ArrayLike

from jaxcomp.kernels import adam8bit as kernel
from jaxcomp.kernels.dynamic_map import SIGNED
from jaxcomp.optim.adam8bit import stepped
from jaxcomp.optim.moments import Where, check_rate, moments


def momentum8bit(
    learning_rate: optax.ScalarOrSchedule,
    momentum: ArrayLike = 0.9,
    *,
    nesterov: bool = False,
    weight_decay: ArrayLike = 0.0,
    mask: Any = None,
    block: int = 256,
    where: Where | None = None,
    stochastic_rounding: bool = False,
    seed: int = 0,
) -> optax.GradientTransformation:
    """optax.sgd. weight_decay does not enter the momentum; block, where, ... as in adam8bit."""
    check_rate("momentum", momentum)
    core = moments(
        kernel.momentum,
        (SIGNED,),
        lambda count: [momentum, 1, *((momentum, 1) if nesterov else (1, 0))],
        block=block,
        where=where,
        float32_updates=stochastic_rounding,
    )
    return stepped(core, learning_rate, weight_decay, mask, stochastic_rounding, seed)
