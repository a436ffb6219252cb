"""What a run has sent so far, for its log."""

from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcomp.base import UnsupportedInput
from jaxcomp.optim.feedback import WORD, FeedbackState


class Report(NamedTuple):
    """steps; sent_nbytes of wires and dense_nbytes of the same gradients as they were, in all of
    them; ratio of the two; error_norm, of what the last step did not send; skipped: steps whose
    gradients were not finite.
    """

    steps: int
    sent_nbytes: int
    dense_nbytes: int
    ratio: float
    error_norm: float
    skipped: int


def report(state: Any) -> Report:
    """Of all states of this folder in a state of optax, chains and stacks of senders too.

    Of several, bytes add up, and error norms as lengths at right angles. Waits for the arrays, so
    it is not for use inside jit. UnsupportedInput where there is no such state.
    """
    leaves = jax.tree.leaves(state, is_leaf=_is_state)
    states = [jax.device_get(leaf) for leaf in leaves if _is_state(leaf)]
    if not states:
        raise UnsupportedInput(
            "expected a state of jc.optim, as error_feedback(...).init makes, got none in it; pass "
            "the state of the whole chain"
        )
    sent = dense = 0
    for each in states:
        counts = np.atleast_1d(each.count).reshape(-1)
        for count, words in zip(counts, each.nbytes.reshape(-1, 2, 2), strict=True):
            sent += int(count) * _number(words[0])
            dense += int(count) * _number(words[1])
    return Report(
        steps=max(int(np.max(each.count)) for each in states),
        sent_nbytes=sent,
        dense_nbytes=dense,
        ratio=dense / sent if sent else 1.0,
        error_norm=float(np.sqrt(sum(np.square(each.error_norm).sum() for each in states))),
        skipped=max(int(np.max(each.skipped)) for each in states),
    )


def _is_state(x: Any) -> bool:
    return isinstance(x, FeedbackState)


def _number(words: np.ndarray) -> int:
    return int(words[0]) + WORD * int(words[1])
