"""Identity: the law, with nothing lost; and that the check sees what breaks the law."""

import jax.numpy as jnp
import pytest

from jaxcomp import UnsupportedInput, optim
from tests.checks_optim import check_compressor
from tests.optim.inputs import hard


def test_the_law():
    assert (check_compressor(optim.identity(), hard()) == 0).all()


@pytest.mark.parametrize(
    "changed",
    [
        {"decompress": lambda wire: 1.01 * wire.parts},  # a bias
        {"decompress": lambda wire: jnp.nan_to_num(wire.parts)},  # hides what is not finite
        {"decompress": lambda wire: wire.parts.astype(jnp.bfloat16)},  # another dtype
        {"compress": lambda key, x, state: (optim.wire.wire(x + 1e-3, x), state)},  # zeros are lost
    ],
)
def test_the_check_sees_what_breaks_it(changed):
    with pytest.raises(AssertionError):
        check_compressor(optim.identity()._replace(**changed), hard(64))


def test_integers_are_refused():
    with pytest.raises(UnsupportedInput, match="int32"):
        optim.identity().compress(None, jnp.arange(3), ())
