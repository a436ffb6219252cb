"""EF21-SGDM: EF21 of a running mean of the gradients, for those that are noisy.

    v <- (1 - eta) v + eta g,     h <- h + C(v - h),     out = mean of h

Plain EF21 compresses g - h. Where g is of a small batch that difference is mostly noise, and what C
picks of it is biased: h stays off however small the steps are, and however many senders there are.
v has less noise the smaller eta is. Fatkhullin, Tyurin, Richtarik, Momentum Provably Improves Error
Feedback, NeurIPS 2023, algorithm 1. We differ: v and h begin at 0, where the paper begins at the
mean of a first batch. What is not compressed (`where`) has the same momentum.
"""

from typing import Any

import optax

from jaxcomp.base import Compressor, Exchange, UnsupportedInput
from jaxcomp.optim.feedback import feedback


def ef21_momentum(
    method: Compressor | Exchange, eta: float = 0.1, **options: Any
) -> optax.GradientTransformation:
    """For compressors with a contraction. eta: above 0 and at most 1, where it is ef21.

    It is the momentum of what follows: follow it by plain sgd. State: FeedbackState, whose memory
    of a leaf is the pair (v, h), and with an exchange the mean of all h as what is shared. Options
    seed, where, layers, axis_name as in feedback.
    """
    if not 0 < eta <= 1:
        raise UnsupportedInput(
            f"expected eta, the share of the newest gradient, above 0 and at most 1, got {eta}; "
            "0.1 is usual"
        )
    meets = isinstance(method, Exchange)

    def before(gradient, memory):
        mean, reference = memory
        return (1 - eta) * mean + eta * gradient, reference

    def message(gradient, memory, shared):
        mean, reference = memory
        return mean - reference

    def result(message, sent, mean, memory, shared):
        momentum, reference = memory
        reference = reference + sent
        if not meets:
            return reference, (momentum, reference), None
        return shared + mean, (momentum, reference), shared + mean

    return feedback(method, message, result, remembers=2, shares=meets, before=before, **options)
