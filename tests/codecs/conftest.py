"""What the tests of codecs share."""

import jax
import pytest

from jaxcomp.codecs import latent_codec
from tests.codecs.designs import QUICK


@pytest.fixture(scope="session", autouse=True)
def initial_parameters_compile_quickly():
    """The program that draws a design's parameters takes 3 s to compile instead of 20."""
    program = jax.jit(latent_codec._init.__wrapped__, static_argnums=0, compiler_options=QUICK)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latent_codec, "_init", program)
        yield
