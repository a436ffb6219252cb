"""Adam with both moments in 4 bits: an eighth of the state, and a little.

As adam8bit, with 16 levels: m on the dynamic map of 4 bits with signs, v on (c + 1) / 16 of the
largest in its block. Li, Chen, Zhu, Memory Efficient Optimizers with 4-bit States, NeurIPS 2023,
sections 3 and 4: with few levels a second moment must not be rounded to zero, whatever the map,
as the step is divided by its root; so the map has no zero. An entry whose gradients are all zero
does not move, as its m is 0. Of the paper's two scales of v, one for each block is taken; the
other, the smaller of the largest in row and column, needs all of a leaf before any of it is known,
which no fused step does, and an exchange where it is sharded. Blocks are of 256 as the TPU's kernel
wants it: 1.03 bytes an entry for both moments. The paper's 128 ended no lower, on a small network.

v below a 16th of its block's largest counts as that: such entries take smaller steps than Adam's,
not larger ones. (On that network the loss was 0.0 to 1.2 % above Adam's, at 8 bits 0.2 %.)
"""

from typing import Any

import optax
from jax.typing import ArrayLike

from jaxcomp.kernels.dynamic_map import LINEAR4, SIGNED4
from jaxcomp.optim.adam8bit import scale_by_adam8bit, stepped
from jaxcomp.optim.moments import Where


def adam4bit(
    learning_rate: optax.ScalarOrSchedule,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    *,
    weight_decay: ArrayLike = 0.0,
    mask: Any = None,
    nesterov: bool = False,
    block: int = 256,
    where: Where | None = None,
    stochastic_rounding: bool = False,
    seed: int = 0,
) -> optax.GradientTransformation:
    """The options of adam8bit. For v alone in 4 bits, scale_by_adam8bit(maps=(SIGNED, LINEAR4))."""
    core = scale_by_adam8bit(
        b1,
        b2,
        eps,
        eps_root,
        nesterov=nesterov,
        block=block,
        where=where,
        maps=(SIGNED4, LINEAR4),
        float32_updates=stochastic_rounding,
    )
    return stepped(core, learning_rate, weight_decay, mask, stochastic_rounding, seed)
