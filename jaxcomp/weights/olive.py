"""olive: integers of 4 bits, where an outlier is a float in its neighbour's bits.

Rare weights far out stretch the range of their output, or are cut off; here they are kept, and the
weight beside each is 0: half of a pair is lost where it hurts least, and nothing is indexed.

    w ~ scale * value,  pairs of values (integer, integer), (outlier, 0) or (0, outlier)

Guo et al., OliVe, arXiv:2304.07493, sections 3 and 4. We differ: each pair is coded whichever of
the three ways is nearest, where there a threshold makes outliers and the first of two wins; and the
scale of least squared error is searched for each output, where there it starts at 3 sigma of a
tensor.
"""

from jaxcomp.base import Transform
from jaxcomp.formats.format import Format, check
from jaxcomp.formats.integer import INT4
from jaxcomp.formats.layout import to_matrix
from jaxcomp.formats.outlier_victim import outlier_victim


def olive(format: Format = INT4) -> Transform:
    """Data-free. format: of 4 bits; its group, an even number or -1, and scale are used."""
    check(format)
    format = format._replace(name="olive4")

    def compress(w, statistics, axes):
        matrix, place = to_matrix(w, axes)
        return outlier_victim(matrix, format, dtype=w.dtype).placed(place)

    return Transform(compress, None, "olive")
