"""What these tests compile runs a few times: it is not optimised (tests/compiling.py)."""

import pytest

from tests.compiling import optimised


@pytest.fixture(scope="module", autouse=True)
def compiled_quickly():
    with optimised(False):
        yield
