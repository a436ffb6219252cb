"""What these tests compile runs a few times: it is not optimised (tests/compiling.py)."""

import pytest

from tests.compiling import optimised

# Two programs are compared bit for bit.
EXACT = {
    "test_compressed_mean",
    "test_dgc",
    "test_econtrol",
    "test_ef21_momentum",
    "test_encode_wire",
    "test_one_bit_adam",
    "test_outer",
    "test_reduce_scatter",
    "test_senders",
}


@pytest.fixture(scope="module", autouse=True)
def compiled_as_usual_or_quickly(request):
    with optimised(request.path.stem in EXACT):
        yield
