"""EF21: a reference of the gradient, at sender and receiver, moved by compressed differences.

    h <- h + C(g - h),     out = mean of h

Where gradients settle, h comes to them: the minimum is reached exactly, at a constant step, however
unlike the senders' data are. Richtarik, Sokolov, Fatkhullin, EF21, NeurIPS 2021, algorithm 2. Steps
up to 1 / (L + L sqrt(b / t)), t = 1 - sqrt(1 - delta), b = (1 - delta) / t. We differ: h begins at
0, where the paper sends the first gradient whole. With noisy gradients put a momentum before it.
"""

from typing import Any

import optax

from jaxcomp.base import Compressor, Exchange
from jaxcomp.optim.feedback import feedback


def ef21(method: Compressor | Exchange, **options: Any) -> optax.GradientTransformation:
    """For compressors with a contraction: top_k, sign, quantized, ...

    State: FeedbackState, whose memory is h, and with an exchange the mean of all h as what is
    shared. Options seed, where, layers, axis_name as in feedback.
    """
    meets = isinstance(method, Exchange)

    def message(gradient, reference, shared):
        return gradient - reference

    def result(message, sent, mean, reference, shared):
        reference = reference + sent
        if not meets:
            return reference, reference, None
        return shared + mean, reference, shared + mean

    return feedback(method, message, result, remembers=True, shares=meets, **options)
