"""Transformations of functions: run them on compressed weights, watch what multiplies weights."""

from typing import TYPE_CHECKING

from jaxcomp.lazy import load_on_use

if TYPE_CHECKING:
    from jaxcomp.lift.fake_quantize import fake_quantize as fake_quantize
    from jaxcomp.lift.lift import lift as lift
    from jaxcomp.lift.observe import observe as observe
    from jaxcomp.lift.statistics import both as both
    from jaxcomp.lift.statistics import max_magnitude as max_magnitude
    from jaxcomp.lift.statistics import mean_magnitude as mean_magnitude
    from jaxcomp.lift.statistics import second_moment as second_moment
    from jaxcomp.lift.symmetry import Member as Member
    from jaxcomp.lift.symmetry import Symmetry as Symmetry
    from jaxcomp.lift.symmetry import symmetries as symmetries

load_on_use(
    __name__,
    {
        "fake_quantize": ("fake_quantize",),
        "lift": ("lift",),
        "observe": ("observe",),
        "statistics": ("both", "max_magnitude", "mean_magnitude", "second_moment"),
        "symmetry": ("Member", "Symmetry", "symmetries"),
    },
)
