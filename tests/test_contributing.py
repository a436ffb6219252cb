"""The skeletons in CONTRIBUTING.md are code that runs and keeps the laws it explains."""

import argparse
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.base import UnsupportedInput
from jaxcomp.nets.integer import FEATURES
from tests.checks import (
    check_cache,
    check_codec,
    check_entropy_model,
    check_integer_net,
    check_leaf,
    check_measure,
    check_transform,
)
from tests.checks_optim import check_compressor
from tests.nets.cases import random_variables
from tests.optim.inputs import hard

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SKELETON = re.compile(r"^### (\w+): a skeleton\n\n```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SKELETONS = dict(SKELETON.findall(TEXT))


@pytest.fixture
def module(tmp_path) -> Callable[[str], ModuleType]:
    """Writes the skeleton of a folder to a file and imports it."""

    def load(folder: str) -> ModuleType:
        path = tmp_path / f"{folder}.py"
        path.write_text(SKELETONS[folder], encoding="utf-8")
        spec = importlib.util.spec_from_file_location(f"skeleton_{folder}", path)
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        return loaded

    return load


def test_every_folder_that_exists_has_a_skeleton():
    folders = {path.parent.name for path in (ROOT / "jaxcomp").glob("*/__init__.py")}
    assert SKELETONS.keys() == folders - {"io"}


def test_measures(module):
    measure = module("measures").mean_absolute_error
    x = np.arange(12, dtype=np.uint8).reshape(4, 3)
    assert check_measure(measure, x, x + 3) == 3
    with pytest.raises(UnsupportedInput, match="one shape"):
        measure(x, x[:2])


def test_kvcache(module):
    state = check_cache(module("kvcache").halves(24), tolerance=1e-3, alone=False)
    assert state.keys.dtype == jnp.uint16  # as bits


def test_optim(module):
    off = check_compressor(module("optim").truncated(), hard())
    assert 0 < off.max() < 2.0**-14


def test_codecs(module):
    image = np.random.default_rng(0).integers(0, 256, (33, 20, 3), dtype=np.uint8)
    decoded, payload = check_codec(module("codecs").halves(), image)
    assert np.abs(decoded.astype(int) - image).max() == 1
    assert len(payload.sections["symbols"]) < image.size * 0.95


def test_entropy(module):
    model = module("entropy").uniform(2)
    params = model.init()
    symbols = np.random.default_rng(0).integers(-9, 10, (5000, 2), dtype=np.int32)
    check_entropy_model(model, params, symbols)
    assert abs(float(model.bits(params, symbols.astype(np.float32)).mean()) - np.log2(20)) < 1e-3


def test_nets(module):
    net = module("nets").Refine()
    x = np.random.default_rng(0).normal(0, 2, (8, 4, 5, 6)).astype(np.float32)
    variables = random_variables(net, x)
    _, y = check_integer_net(net, variables, x, source=FEATURES, target=FEATURES)
    assert len(np.unique(y)) > 50


def test_kernels(module):
    kernel = module("kernels")
    x = jnp.arange(8 * 128, dtype=jnp.int32).reshape(8, 128)
    assert kernel.supports(x.shape) and not kernel.supports((3, 5))
    np.testing.assert_array_equal(kernel.run(x), x + 1)
    np.testing.assert_array_equal(kernel.run(x[:3, :5]), x[:3, :5] + 1)
    np.testing.assert_array_equal(kernel._tpu(x, interpret=True), kernel.reference(x))


def test_coding(module):
    bits = module("coding").elias_gamma_bits
    np.testing.assert_array_equal(
        bits(jnp.array([0, 1, 2, 3, 4, 255, 256])), [0, 1, 3, 3, 5, 15, 17]
    )


def test_cli(module, tmp_path, capsys):
    (tmp_path / "file").write_bytes(bytes(17))
    parser = argparse.ArgumentParser()
    module("cli").add(parser.add_subparsers())
    arguments = parser.parse_args(["size", str(tmp_path / "file")])
    assert arguments.run(arguments) == 0
    assert capsys.readouterr().out == "17\n"


def test_weights(module):
    w = np.random.default_rng(0).normal(size=(24, 8)).astype(np.float32)
    leaf = check_transform(module("weights").powers_of_two(), w)
    signs, exponents = np.frexp(np.asarray(leaf.dense()) / np.abs(leaf.dense()).max(0))
    assert set(np.abs(signs).ravel()) <= {0.0, 0.5} and exponents.min() >= -2


def test_formats(module):
    constant = module("formats").Constant
    values = jnp.asarray([[1.0, 2.0, 3.0]])
    leaf = constant(values, jnp.dtype("float32"), ((-2, 4),))
    np.testing.assert_array_equal(check_leaf(leaf), np.tile([1.0, 2.0, 3.0], (4, 1)))


def test_lift(module):
    params = {"inner": jnp.ones((3, 4)), "outer": jnp.ones((4, 4))}

    def fn(params, x):
        return x @ params["inner"] @ params["outer"] @ params["outer"].T

    counts = module("lift").products(fn, params, jnp.ones((2, 3)))
    assert counts == {"inner": 1, "outer": 2}
