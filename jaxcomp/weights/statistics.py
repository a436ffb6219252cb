"""What jc.observe gathers for the methods of this folder."""

from jaxcomp.lift.statistics import both as both
from jaxcomp.lift.statistics import max_magnitude as max_magnitude
from jaxcomp.lift.statistics import mean_magnitude as mean_magnitude
from jaxcomp.lift.statistics import second_moment as second_moment
