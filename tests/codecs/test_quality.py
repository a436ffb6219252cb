"""One scale of qualities: monotone, the same under a trace, and rates found in few tries."""

import jax
import numpy as np
import pytest

from jaxcomp.base import JaxcompError
from jaxcomp.codecs.quality import MAX_STEP, MIN_STEP, STEPS, find_step, step_of


def bits(step):
    return 5e7 * (step / 16) ** -1.3


def test_steps_fall_with_quality_and_are_the_same_under_a_trace():
    steps = [find_step(bits, q, None, pixels=1, overhead_bits=0) for q in range(1, 101)]
    assert steps == sorted(steps, reverse=True) and steps[0] == 16 * STEPS[0]
    traced = jax.jit(step_of)(np.arange(1.0, 101.0, dtype=np.float32))
    np.testing.assert_allclose(16 * traced, steps, atol=0.51)


@pytest.mark.parametrize("bpp", [0.1, 0.7, 3.0])
def test_a_rate_is_kept_and_nearly_used_up(bpp):
    tries = []

    def counted(step):
        tries.append(step)
        return bits(step)

    step = find_step(counted, None, bpp, pixels=10**6, overhead_bits=1000)
    assert 0.98 * bpp < (bits(step) + 1000) / 10**6 <= bpp and len(tries) <= 5


def test_rates_out_of_reach_end_at_the_extremes():
    assert find_step(bits, None, 1e-9, pixels=1, overhead_bits=0) == MAX_STEP
    assert find_step(bits, None, 1e9, pixels=1, overhead_bits=0) == MIN_STEP


@pytest.mark.parametrize("quality, bpp", [(0, None), (101, None), (50, 1.0), (None, -1.0)])
def test_bad_requests_are_named(quality, bpp):
    with pytest.raises(JaxcompError, match="quality"):
        find_step(bits, quality, bpp, pixels=1, overhead_bits=0)
