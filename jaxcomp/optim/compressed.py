"""Compression without feedback: out = mean of C(g). For unbiased compressors, and to compare with.

A biased one loses the same part of the gradients again and again; see error_feedback and ef21.
"""

from typing import Any

import optax

from jaxcomp.base import Compressor, Exchange
from jaxcomp.optim.feedback import feedback


def compressed(method: Compressor | Exchange, **options: Any) -> optax.GradientTransformation:
    """What gradients become on the wire. Options as those of feedback."""

    def message(gradient, memory, shared):
        return gradient

    def result(message, sent, mean, memory, shared):
        return mean, None, None

    return feedback(method, message, result, remembers=False, **options)
