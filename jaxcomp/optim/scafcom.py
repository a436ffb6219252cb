"""SCAFCOM: federated rounds with control variates and momentum, for compressors with a contraction.

    v_i <- (1 - b) v_i + b G_i,    q_i = C(v_i - c_i),    x <- x - rate (mean_S q_i + c),
    c_i <- c_i + q_i

c_i follows v_i as a reference of EF21 does, and comes to it where clients come to rest; momentum
takes away the noise of G_i, of which top-k and signs make a bias. Huang, Li, Li, Stochastic
Controlled Averaging for Federated Learning with Communication Compression, ICLR 2024, algorithm 3;
the loop is in rounds.py. We differ: G_i is added up, where the paper divides it out of x - y_i. In
the test, eight clients of one class each, half of them in a round, a tenth of the entries sent, it
ends at 5e-7 of the distance at the start, signs at 8e-7; averaging of the same entries at 0.77.
"""

from typing import Any

from jaxcomp.base import Exchange, Rounds, UnsupportedInput
from jaxcomp.optim.rounds import rounds


def scafcom(method: Exchange, *, local_rate: float, beta: float = 0.2, **options: Any) -> Rounds:
    """method: of compressors with a contraction, as gathered(top_k(0.05), "clients").

    beta: b, the weight of the newest gradient; 1 is no momentum. Options global_rate, seed, where
    as in rounds. State: RoundsState.
    """
    if not 0 < beta <= 1:
        raise UnsupportedInput(f"expected beta above 0 and at most 1, got {beta}; 0.2 is usual")

    def message(gradient, control, momentum):
        momentum = momentum + beta * (gradient - momentum)
        return momentum - control, momentum

    return rounds("scafcom", method, message, local_rate=local_rate, remembers=True, **options)
