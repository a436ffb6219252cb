"""Error feedback: what was not sent is added to what is sent next.

    out = mean of C(g + e),     e <- g + e - C(g + e)

All of every gradient is sent in the end, only later; a compressor that contracts at all converges
as SGD does. Seide et al., 1-bit SGD, Interspeech 2014; Karimireddy et al., Error Feedback Fixes
SignSGD, ICML 2019, algorithm 2. We differ: g has no learning rate in it, unless this comes behind
the learning rate in the chain, as there.
"""

from typing import Any

import optax

from jaxcomp.base import Compressor, Exchange
from jaxcomp.optim.feedback import feedback


def error_feedback(method: Compressor | Exchange, **options: Any) -> optax.GradientTransformation:
    """For compressors with a contraction; of unbiased ones take those of least error.

    State: FeedbackState, whose memory is e. Options seed, where, layers, axis_name as in feedback.
    Senders with unlike data: a constant step leaves them a step's length from the minimum; see
    ef21.
    """

    def message(gradient, error, shared):
        return gradient + error

    def result(message, sent, mean, error, shared):
        return mean, message - sent, None

    return feedback(method, message, result, remembers=True, **options)
