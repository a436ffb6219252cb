"""What the tests of codecs share."""

import jax
import pytest

from jaxcomp.codecs import latent_codec
from tests.codecs.designs import QUICK


@pytest.fixture(scope="session", autouse=True)
def initial_parameters_compile_quickly():
    """The program that draws a design's parameters takes 3 s to compile instead of 20."""
    usual = latent_codec._init
    quick = jax.jit(usual.__wrapped__, static_argnums=0, compiler_options=QUICK)

    def init(design, key):
        inside = isinstance(key, jax.core.Tracer)  # an outer program's options hold there
        return (usual if inside else quick)(design, key)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latent_codec, "_init", init)
        yield
