"""What these tests compile runs a few times: it is not optimised (tests/compiling.py)."""

import pytest

from tests.compiling import optimised

# Bytes of files depend on floats.
EXACT = {"test_cachegen", "test_cachegen_fit", "test_cachegen_model", "test_plan"}


@pytest.fixture(scope="module", autouse=True)
def compiled_as_usual_or_quickly(request):
    with optimised(request.path.stem in EXACT):
        yield
