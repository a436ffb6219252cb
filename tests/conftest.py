"""What every test runs under: a CPU with eight devices, and shapes checked against annotations."""

import gc
import os
from importlib.metadata import version

import pytest

# Read when the first backend starts, so it must be set before any test touches jax.
os.environ["JAX_PLATFORMS"] = os.environ.get("JAX_PLATFORMS", "cpu")
# What a test compiles runs once or twice, on a machine whose cores all compile. XLA's older way to
# write loops compiles in two thirds of the time, as in cli/common.py; jax 0.11 has lost it. Tests
# that name tests.nets.cases.AS_USUAL hold what users of the library get to the same integers.
os.environ["XLA_FLAGS"] = " ".join(
    [
        *os.environ.get("XLA_FLAGS", "").split(),
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=1",
        "--xla_cpu_parallel_codegen_split_count=1",
        *["--xla_cpu_use_fusion_emitters=false"] * version("jax").startswith("0.10."),
    ]
)

from jaxtyping import install_import_hook

# Shapes and dtypes in signatures are checked by beartype from here on, and nowhere else.
install_import_hook("jaxcomp", "beartype.beartype")

# Programs are many small objects that stay: looking through them all for garbage takes 4 % of the
# time at Python's thresholds, and a third of that at these.
gc.set_threshold(100_000, 50, 100)


def pytest_collectstart():
    """Programs are compiled for tests from here on: they are collected where they run."""
    from tests.compiling import once

    once()


def pytest_collection_finish():
    """What is imported by now stays: it is not looked through again."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def quick():
    """What this test compiles is not optimised: see tests/compiling.py for what that is not for."""
    from tests.compiling import optimised

    with optimised(False):
        yield


@pytest.fixture(scope="module")
def quick_file():
    """The same for all tests and fixtures of a file. Laws (tests/checks.py) are optimised still."""
    from tests.compiling import optimised

    with optimised(False):
        yield
