"""The methods that benchmarks/weights.py compares, in sections whose first row is the baseline."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jaxcomp as jc

F, W = jc.formats, jc.weights


class Section(NamedTuple):
    """A table: the model it is about, and label -> (task, stats) -> compressed params."""

    task: str
    title: str
    methods: dict[str, Callable[[Any, Any], Any]]


def by(method):
    """Every weight that the model multiplies, by one method."""
    return lambda task, stats: W.compress(task.params, method, stats=stats)


def padded(format):
    return format._replace(pad=True)


def at_bits(symmetric, asymmetric):
    """The same grid for every method."""
    f, u = padded(symmetric), padded(asymmetric)
    return {
        "rtn": by(W.rtn(u)),
        "rtn, clipped": by(W.rtn(u, clip=True)),
        "gptq": by(W.gptq(u)),
        "gptq, group order": by(W.gptq(u, order="group")),
        "rtn, symmetric": by(W.rtn(f)),
    }


SECTIONS = {
    "stories 8": Section("stories", "8 bits per channel", at_bits(F.INT8, F.UINT8)),
    "stories 4": Section("stories", "4 bits, groups of 32", at_bits(F.INT4_G32, F.UINT4_G32)),
    "stories 3": Section("stories", "3 bits, groups of 32", at_bits(F.INT3_G32, F.UINT3_G32)),
    "stories 2": Section("stories", "2 bits, groups of 32", at_bits(F.INT2_G32, F.UINT2_G32)),
}
