"""What noise is worth: (epsilon, delta) of sums of clipped samples with Gaussian noise, many times.

    RDP(a) = 1/(a - 1) log sum_k C(a, k) (1 - q)^(a - k) q^k exp((k^2 - k) / (2 sigma^2))

for integers a > 1, each sample taking part in each step with chance q of its own (Poisson). Steps
add up, and for every a

    epsilon = steps RDP(a) + log((a - 1)/a) - (log delta + log a) / (a - 1)

holds: the least is taken. Mironov, Talwar, Zhang, Renyi Differential Privacy of the Sampled
Gaussian Mechanism, 2019, section 3.3; the conversion is that of Canonne, Kamath, Steinke, The
Discrete Gaussian for Differential Privacy, NeurIPS 2020, proposition 12. Neighbours differ in one
sample that is there or not. Orders between integers would be a little tighter. Float64, on the
host.
"""

import math

import numpy as np

from jaxcomp.base import UnsupportedInput

# Beyond them only epsilons below 0.05 are won, and the sum over k grows with the order.
ORDERS = (*range(2, 64), *range(64, 257, 8), 320, 384, 448, 512)


def privacy_epsilon(
    noise: float, *, steps: int, delta: float, sampling: float = 1.0
) -> tuple[float, int]:
    """(epsilon, the order that it is of). noise: sigma, its standard deviation over the clip norm.

    sampling: q, the chance of a sample to be in a batch. What is done to noisy sums afterwards, as
    sketching them, costs nothing. inf where there is no noise.
    """
    if not (noise >= 0 and 0 <= sampling <= 1 and 0 < delta < 1 and steps >= 0):
        raise UnsupportedInput(
            f"expected noise >= 0, sampling in [0, 1], delta in (0, 1) and steps >= 0, got {noise},"
            f" {sampling}, {delta} and {steps}; delta below one over the number of samples is usual"
        )
    if steps == 0 or sampling == 0:
        return 0.0, ORDERS[-1]
    if noise == 0:
        return math.inf, ORDERS[0]
    every = [
        steps * renyi(a, noise, sampling)
        + math.log((a - 1) / a)
        - (math.log(delta) + math.log(a)) / (a - 1)
        for a in ORDERS
    ]
    best = int(np.argmin(every))
    return max(0.0, every[best]), ORDERS[best]


def renyi(order: int, noise: float, sampling: float) -> float:
    """Renyi divergence of one step at an integer order; order / (2 noise^2) where all take part."""
    if sampling == 1:
        return order / (2 * noise**2)
    k = np.arange(order + 1)
    choose = np.array([math.lgamma(order + 1) - math.lgamma(i + 1) for i in k])
    choose -= np.array([math.lgamma(order - i + 1) for i in k])
    terms = choose + (order - k) * math.log1p(-sampling) + k * math.log(sampling)
    return float(np.logaddexp.reduce(terms + (k * k - k) / (2 * noise**2))) / (order - 1)
