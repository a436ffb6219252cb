"""Compression without feedback: out = C(g). For unbiased compressors, and to compare with.

A biased one loses the same part of the gradients again and again; see error_feedback and ef21.
"""

from typing import Any

import optax

from jaxcomp.base import Compressor
from jaxcomp.optim.feedback import feedback


def compressed(compressor: Compressor, **options: Any) -> optax.GradientTransformation:
    """What gradients become on the wire. Options seed, where and axis_name as in feedback."""

    def message(gradient, memory):
        return gradient

    def result(message, sent, memory):
        return sent, None

    return feedback(compressor, message, result, remembers=False, **options)
