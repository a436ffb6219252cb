"""What a run has sent so far, for its log."""

from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcomp.base import UnsupportedInput
from jaxcomp.optim.log import Log
from jaxcomp.optim.senders import PerSender


class Report(NamedTuple):
    """steps; sent_nbytes, by one device with an exchange, of the wire without; dense_nbytes, of the
    same gradients as they were; ratio of the two; error_norm, of what the last step did not send;
    skipped: steps whose gradients were not finite.
    """

    steps: int
    sent_nbytes: int
    dense_nbytes: int
    ratio: float
    error_norm: float
    skipped: int


def report(state: Any) -> Report:
    """Of all states of this folder in a state of optax, chains and stacks of senders too.

    Of several, bytes add up, and error norms as lengths at right angles; of what each sender counts
    for itself, as methods inside of outer do, the first one's count. Waits for the arrays, so it is
    not for use inside jit. UnsupportedInput where there is no such state.
    """
    states = [jax.device_get(log) for log in _logs(state)]
    if not states:
        raise UnsupportedInput(
            "expected a state of jc.optim, as error_feedback(...).init makes, got none in it; pass "
            "the state of the whole chain"
        )
    nbytes = [np.reshape(each.nbytes, (-1, 2, 2)) for each in states]
    sent, dense = (sum(_number(one[i]) for each in nbytes for one in each) for i in (0, 1))
    errors = [np.asarray(each.error_norm.value) for each in states]
    return Report(
        steps=max(int(np.max(each.count)) for each in states),
        sent_nbytes=sent,
        dense_nbytes=dense,
        ratio=dense / sent if sent else 1.0,
        error_norm=float(np.sqrt(sum(np.square(error).sum() for error in errors))),
        skipped=max(int(np.max(each.skipped)) for each in states),
    )


def _logs(state: Any) -> list[Log]:
    def ends(x):
        return isinstance(x, Log | PerSender)

    found = []
    for leaf in jax.tree.leaves(state, is_leaf=ends):
        if isinstance(leaf, PerSender):
            found += [_first(log) for log in _logs(leaf.value)]
        elif isinstance(leaf, Log):
            found.append(leaf)
    return found


def _first(log: Log) -> Log:
    if log.nbytes.ndim == 2:  # inside of shard_map, or of one sender
        return log
    rest = log._replace(error_norm=None)
    return jax.tree.map(lambda x: x[0], rest)._replace(error_norm=log.error_norm)


def _number(words: np.ndarray) -> int:
    return int(words[0]) + (int(words[1]) << 32)
