"""Lion with its momentum in 8 bits: one byte and a little an entry.

    update = -rate sign(b1 m + (1 - b1) g),   m = b2 m + (1 - b2) g

Chen et al., Symbolic Discovery of Optimization Algorithms, NeurIPS 2023, algorithm 2; blocks and
codes as in adam8bit. The sign of zero is zero. A sign changes where b1 m + (1 - b1) g is smaller
than the rounding of m, which the levels around zero make rare.
"""

from typing import Any

import optax
from jax.typing import ArrayLike

from jaxcomp.kernels import adam8bit as kernel
from jaxcomp.kernels.dynamic_map import SIGNED
from jaxcomp.optim.adam8bit import stepped
from jaxcomp.optim.moments import Where, check_rate, moments


def lion8bit(
    learning_rate: optax.ScalarOrSchedule,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.99,
    *,
    weight_decay: ArrayLike = 1e-3,
    mask: Any = None,
    block: int = 256,
    where: Where | None = None,
    stochastic_rounding: bool = False,
    seed: int = 0,
) -> optax.GradientTransformation:
    """optax.lion, with its defaults; block, where and the rest as in adam8bit."""
    for name, value in (("b1", b1), ("b2", b2)):
        check_rate(name, value)

    core = moments(
        kernel.lion,
        (SIGNED,),
        lambda count: [b2, 1 - b2, b1, 1 - b1],
        block=block,
        where=where,
        float32_updates=stochastic_rounding,
    )
    return stepped(core, learning_rate, weight_decay, mask, stochastic_rounding, seed)
