"""Weight compression, one method per file."""

from typing import TYPE_CHECKING

from jaxcomp.lazy import load_on_use

if TYPE_CHECKING:
    from jaxcomp.weights.compress import compress as compress
    from jaxcomp.weights.rtn import rtn as rtn
    from jaxcomp.weights.statistics import max_magnitude as max_magnitude
    from jaxcomp.weights.statistics import mean_magnitude as mean_magnitude
    from jaxcomp.weights.statistics import second_moment as second_moment

load_on_use(
    __name__,
    {
        "compress": ("compress",),
        "rtn": ("rtn",),
        "statistics": ("max_magnitude", "mean_magnitude", "second_moment"),
    },
)
