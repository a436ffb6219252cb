"""power: levels that are powers of integers, with an exponent for every output.

    w ~ scale * sgn(q) |q|^(1 / a),  q an integer of few bits,  a <= 1

a = 1 is the uniform grid; the smaller a, the finer the levels near 0 and the farther they reach.
For each output, or group, the exponent and the scale of least squared error are searched.

Yvinec et al., PowerQuant, arXiv:2301.09858, section 3, and NUPES, arXiv:2308.05600, section 3. We
differ: there q = round(|w|^a / step), here q is the level nearest to w itself; the exponent is of
an output and not of a layer or a network, and chosen from a list; the scale is searched too; and
the integer below the most negative one is used.
"""

from jaxcomp.base import Transform, UnsupportedInput
from jaxcomp.formats.format import Format, check
from jaxcomp.formats.grid_choice import choose
from jaxcomp.formats.integer import INT4
from jaxcomp.formats.layout import to_matrix
from jaxcomp.formats.level_rules import Levels, check_levels

# From cubes, which serve the tails of Student's t with 3 degrees of freedom, to the uniform grid.
EXPONENTS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 1 / 3)


def power(format: Format = INT4, *, exponents: tuple[float, ...] = EXPONENTS) -> Transform:
    """Data-free. format: its bits, 2 to 8, group and scale. One exponent makes a QTensor, which
    the packed kernels multiply; several a GridChoice, with a byte more per scale."""
    check(format)
    if not exponents or not all(0.1 <= a <= 1 for a in exponents):
        raise UnsupportedInput(f"expected exponents from 0.1 to 1, got {exponents}; 0.5 is usual")
    tables = Levels("power", format.bits, tuple(map(float, exponents)))
    check_levels(tables)
    name = f"power{format.bits}"
    if len(exponents) == 1:
        name += f" {exponents[0]:.2g}"
    format = format._replace(name=name)

    def compress(w, statistics, axes):
        matrix, place = to_matrix(w, axes)
        return choose(matrix, tables, format, dtype=w.dtype).placed(place)

    return Transform(compress, None, "power")
