"""The rows of benchmarks.optim: what stands between gradients and parameters, by name.

Gradients are clipped by each sender before anything else, all rows alike. Matrices are compressed;
gains and biases, 0.3 % of the parameters, go as they are and are counted so.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from jaxcomp import formats, optim

AXIS = "data"
MOMENTUM = 0.9
B2 = 0.99  # of Adam: 0.999 is for more steps than there are


class Method(NamedTuple):
    """build(rate, steps): rate a schedule; base: the row that it is judged against; start: the
    rate at which the search for the best begins, as a multiple of the base's; local: gradients are
    taken at own_params; round: local steps of a Rounds, which build then makes, for a step of 1."""

    build: Callable[[Any, int], optax.GradientTransformation]
    base: str = "sgd"
    start: float = 1.0
    tasks: tuple[str, ...] = ("text", "mnist")
    local: bool = False
    round: int = 0


def matrices(path: str, leaf: Any) -> bool:
    return leaf.ndim > 1


def sgd(around: Callable[..., Any], *arguments: Any, **options: Any):
    """A transformation of gradients, then momentum: what all senders do alike."""

    def build(rate, steps):
        found = around(*arguments, where=matrices, **options)
        return optax.chain(found, optax.sgd(rate, momentum=MOMENTUM))

    return build


def plain(around: Callable[..., Any], *arguments: Any, **options: Any):
    """The same for those that have their own momentum."""

    def build(rate, steps):
        return optax.chain(around(*arguments, where=matrices, **options), optax.sgd(rate))

    return build


def dense(make: Callable[[Any], optax.GradientTransformation]):
    """Gradients as they are; what steps is another."""
    return lambda rate, steps: optax.chain(optim.compressed(optim.dense_mean(AXIS)), make(rate))


def gathered(compressor):
    return optim.gathered(compressor, AXIS)


def two_way(compressor, **options):
    return optim.compressed_mean(compressor, AXIS, **options)


def linear(name):
    """One entry of twenty in a sketch, added up on the way."""

    def build(rate, steps):
        compressor = getattr(optim, name)(0.05, unbiased=False)
        return sgd(optim.error_feedback, optim.summed(compressor, AXIS))(rate, steps)

    return build


def half(compressor):
    """Values in bfloat16; what that loses is fed back."""

    def compress(key, x, state):
        return compressor.compress(key, x.astype(jnp.bfloat16), state)

    def decompress(wire):
        return compressor.decompress(wire).astype(jnp.float32)

    return compressor._replace(compress=compress, decompress=decompress)


def once(compressor):
    """Both halves rounded, and nothing remembered."""
    return two_way(compressor, remembers=False)


METHODS = {
    "sgd": Method(dense(lambda rate: optax.sgd(rate, momentum=MOMENTUM)), tasks=("text", "mnist")),
    "adam": Method(dense(lambda rate: optax.adam(rate, b2=B2)), "adam", start=0.01),
    # Unbiased, nothing remembered.
    "natural": Method(sgd(optim.compressed, once(optim.natural()))),
    "qsgd 4 bits": Method(sgd(optim.compressed, once(optim.qsgd(4)))),
    "terngrad": Method(sgd(optim.compressed, once(optim.terngrad()))),
    "drive": Method(sgd(optim.compressed, once(optim.drive()))),
    "random_k 5 %": Method(sgd(optim.compressed, gathered(optim.random_k(0.05))), start=0.5),
    # Biased, nothing remembered: what feedback is for.
    "sign alone": Method(sgd(optim.compressed, once(optim.sign()))),
    "top_k 1 % alone": Method(sgd(optim.compressed, gathered(optim.top_k(0.01)))),
    # Error feedback.
    "int4 + EF": Method(sgd(optim.error_feedback, two_way(optim.quantized(formats.INT4)))),
    "sign + EF": Method(sgd(optim.error_feedback, two_way(optim.sign()))),
    "drive + EF": Method(sgd(optim.error_feedback, two_way(optim.drive(unbiased=False)))),
    "top_k 1 % + EF": Method(sgd(optim.error_feedback, gathered(optim.top_k(0.01)))),
    "sign of rows + EF": Method(sgd(optim.error_feedback, two_way(optim.sign(block=64)))),
    "top_k 4 % both ways + EF": Method(sgd(optim.error_feedback, two_way(optim.top_k(0.04)))),
    "random_k 1 % + EF": Method(
        sgd(optim.error_feedback, gathered(optim.random_k(0.01, unbiased=False)))
    ),
    "ef21 top_k 1 %": Method(sgd(optim.ef21, gathered(optim.top_k(0.01)))),
    "ef21 sign": Method(sgd(optim.ef21, two_way(optim.sign()))),
    # Feedback that follows the gradient.
    "ef21_momentum top_k 1 %": Method(
        plain(optim.ef21_momentum, gathered(optim.top_k(0.01))), start=1 / (1 - MOMENTUM)
    ),
    "ef21_momentum top_k 4 % both ways": Method(
        plain(optim.ef21_momentum, two_way(optim.top_k(0.04))), start=1 / (1 - MOMENTUM)
    ),
    "econtrol top_k 1 %": Method(sgd(optim.econtrol, gathered(optim.top_k(0.01)), 0.1)),
    "power_sgd 1": Method(sgd(optim.error_feedback, optim.power_sgd(1, AXIS))),
    "power_sgd 2": Method(sgd(optim.error_feedback, optim.power_sgd(2, AXIS))),
    "power_sgd 4": Method(sgd(optim.error_feedback, optim.power_sgd(4, AXIS))),
    "dgc 1 %": Method(plain(optim.dgc, AXIS, 0.01)),
    "dgc 1 % warm-up": Method(plain(optim.dgc, AXIS, 0.01, warm_up=10)),
    "dgc 1.6 % bfloat16": Method(
        plain(optim.dgc, AXIS, 0.016, compressor=lambda share: half(optim.top_k(share)))
    ),
    "dgc 1 % bfloat16 warm-up": Method(
        lambda rate, steps: plain(
            optim.dgc,
            AXIS,
            0.01,
            warm_up=steps // 60,
            compressor=lambda share: half(optim.top_k(share)),
        )(rate, steps)
    ),
    # Linear: sums on the way.
    "count_sketch 5 % + EF": Method(linear("count_sketch"), start=0.25),
    "srht 5 % + EF": Method(linear("srht"), start=0.5),
    # Adam on signs.
    "one_bit_adam": Method(
        lambda rate, steps: optim.one_bit_adam(
            rate, two_way(optim.sign()), warm_up=steps // 6, b2=B2, where=matrices
        ),
        "adam",
    ),
    "zero_one_adam": Method(
        lambda rate, steps: optim.zero_one_adam(
            rate,
            two_way(optim.sign()),
            freeze=steps // 2,
            local=4,
            local_doubling=steps // 8,
            b2=B2,
            where=matrices,
        ),
        "adam",
        local=True,
    ),
    # Steps alone, then a meeting.
    "outer 10 int4": Method(
        lambda rate, steps: optim.outer(
            optax.adam(rate, b2=B2),
            two_way(optim.quantized(formats.INT4)),
            every=10,
            where=matrices,
        ),
        "adam",
        local=True,
    ),
    "scallion 5 qsgd 4 bits": Method(
        lambda rate, steps: optim.scallion(
            gathered(optim.qsgd(4)), local_rate=1.0, alpha=0.2, where=matrices
        ),
        start=4.0,
        round=5,
    ),
    "scafcom 5 top_k 5 %": Method(
        lambda rate, steps: optim.scafcom(
            gathered(optim.top_k(0.05)), local_rate=1.0, where=matrices
        ),
        start=4.0,
        round=5,
    ),
    # What unlike senders do: no momentum, one rate.
    "sgd without momentum": Method(dense(optax.sgd), "sgd without momentum", tasks=("split",)),
    **{
        f"{name} top_k 0.2 %": Method(
            plain(make, gathered(optim.top_k(0.002)), *more),
            "sgd without momentum",
            tasks=("split",),
        )
        for name, make, more in (
            ("error_feedback", optim.error_feedback, ()),
            ("ef21", optim.ef21, ()),
            ("ef21_momentum", optim.ef21_momentum, ()),
            ("econtrol", optim.econtrol, (0.002,)),
        )
    },
    # Small states.
    "adam8bit": Method(dense(lambda rate: optim.adam8bit(rate, b2=B2)), "adam"),
    "adam4bit": Method(dense(lambda rate: optim.adam4bit(rate, b2=B2)), "adam"),
    "frugal": Method(dense(lambda rate: optim.frugal(rate)), "adam"),
    "lion": Method(dense(lambda rate: optax.lion(rate, weight_decay=0.0)), "lion", start=0.001),
    "lion8bit": Method(dense(lambda rate: optim.lion8bit(rate, weight_decay=0.0)), "lion"),
    "momentum8bit": Method(
        dense(lambda rate: optim.momentum8bit(rate, momentum=MOMENTUM)),
    ),
}
