"""EoRA: what compression left over, at the low rank that serves the outputs that were observed.

    min tr((D - B A) M (D - B A)^T),   D = W - Q,  M = sum x x^T

Works on any method: rounding, pruning, another basis. LoRC is EoRA with M = I.

Liu et al., EoRA, arXiv:2410.21271, section 3. We differ: they project D into the eigenvectors of M
times the roots of its eigenvalues, take its singular vectors there and project back, which divides
by small eigenvalues. The same optimum is B B^T D, with B the first eigenvectors of D M D^T
(lorc.py), and divides by nothing.
"""

from typing import Any

import jax.numpy as jnp

from jaxcomp.base import Transform
from jaxcomp.formats.format import Format
from jaxcomp.formats.layout import to_matrix
from jaxcomp.lift.statistics import second_moment
from jaxcomp.weights.basis import as_method, needs
from jaxcomp.weights.lorc import check_rank, corrected


def eora(
    method: Transform | Format, rank: int = 32, *, factors: Format | Any = jnp.bfloat16
) -> Transform:
    """Needs second moments. factors: a dtype, or a Format as INT8."""
    method = as_method(method)
    check_rank(rank)
    statistic, split = needs(second_moment, method.statistic)

    def compress(w, statistics, axes):
        matrix, place = to_matrix(w, axes)
        own, state = split(statistics)
        inner = method.compress(matrix, state, (-1,))
        return corrected(inner, matrix, own["moment"], rank, factors).placed(place)

    return Transform(compress, statistic, f"eora {rank} {method.name}")
