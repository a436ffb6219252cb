"""Identity: the law, with nothing lost."""

import jax.numpy as jnp
import pytest

from jaxcomp import UnsupportedInput, optim
from tests.checks import check_compressor
from tests.optim.inputs import hard


def test_the_law():
    assert (check_compressor(optim.identity(), hard()) == 0).all()


def test_integers_are_refused():
    with pytest.raises(UnsupportedInput, match="int32"):
        optim.identity().compress(None, jnp.arange(3), ())
