"""The least bound of a ratio: found, verified, and refused where there is none."""

import io

import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.base import UnsupportedInput
from jaxcomp.io.target_ratio import Trial, find_bound

DRAW = np.random.default_rng(0)
NORMAL = DRAW.standard_normal((40, 60)).astype(np.float32)


def saved(tree, **options):
    """(bounds of the file, its bytes)"""
    file = io.BytesIO()
    nbytes = jc.io.save_tensors(file, tree, chunk_nbytes=1 << 14, threads=1, **options)
    with jc.io.open_tensors(file, threads=1) as opened:
        return jc.io.bounds_of(opened), nbytes


@pytest.mark.parametrize("kind", [jc.io.Absolute, jc.io.Relative, jc.io.ValueRange])
def test_the_least_bound_of_a_ratio_is_found(kind):
    tree = {"a": NORMAL, "b": 30 * NORMAL.astype(np.float64).cumsum(0)}
    original = sum(x.nbytes for x in tree.values())
    said, nbytes = saved(tree, bound=kind, target_ratio=4)
    assert 0.96 * original <= 4 * nbytes <= original
    found = said["a"].bound
    assert type(found) is kind and saved(tree, bound=kind(0.8 * found.bound))[1] > original / 4
    if kind is jc.io.Relative:
        again = saved(lambda: iter(tree.items()), bound=kind, target_ratio=4)
        assert again[0]["a"].bound == found


def test_ratios_that_need_no_loss_or_cannot_be_had_are_said():
    said, _ = saved({"zeros": np.zeros(9999, np.float32)}, bound=jc.io.Relative, target_ratio=5)
    assert said["zeros"] == (jc.io.Relative(0.0), 0.0)
    noise = {"x": NORMAL, "noise": DRAW.integers(0, 256, 9600, np.uint8)}
    with pytest.raises(UnsupportedInput, match=r"target_ratio of at most 1\.\d+, which ValueRange"):
        saved(noise, bound=jc.io.ValueRange, target_ratio=5)
    with pytest.raises(UnsupportedInput, match="function that gives the iterator"):
        saved(iter(noise.items()), bound=jc.io.ValueRange, target_ratio=5)
    with pytest.raises(UnsupportedInput, match="target_ratio above 0"):
        saved(noise, bound=None, target_ratio=5)


def test_an_estimate_that_is_off_is_corrected_by_what_was_coded():
    tried = []

    def trial(bound):  # 30 % more than any estimate, and 500 bytes of other arrays
        tried.append(bound.bound)
        bits = 32.0 if not bound.bound else 1.3 * max(0.0, np.log2(4.13 / (2 * bound.bound)))
        return Trial(
            NORMAL.nbytes, round(NORMAL.size * bits / 8) + 500, round(NORMAL.size * bits / 8)
        )

    found = find_bound(jc.io.Absolute, 4, lambda: iter([NORMAL]), trial)
    assert len(tried) < 6 and trial(found).nbytes <= NORMAL.nbytes / 4 < 1.04 * trial(found).nbytes
