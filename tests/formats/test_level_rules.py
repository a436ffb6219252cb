"""Rules of levels: the tables that they stand for, the same for ever, in next to no bytes."""

import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.base import UnsupportedInput
from jaxcomp.formats import INT2, INT8, Format
from jaxcomp.formats.float4 import E2M1
from jaxcomp.formats.format import check
from jaxcomp.formats.level_rules import Levels, float_levels, power_levels, tables
from jaxcomp.io.tree_nodes import from_static
from jaxcomp.weights import llm_fp4, power

GOLDEN = Path(__file__).parent.parent / "golden"


def test_powers_of_integers():
    even, squares = (np.array(power_levels(3, a)) for a in (1.0, 0.5))
    np.testing.assert_allclose(even * 3, range(-4, 4), rtol=1e-6)
    np.testing.assert_allclose(squares * 9, [-16, -9, -4, -1, 0, 1, 4, 9], rtol=1e-6)


def test_floats_of_the_bit_patterns():
    assert float_levels(2, 1) == E2M1
    assert float_levels(1, 2)[:8] == (0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75)
    assert float_levels(3, 0)[:8] == (0, 1, 2, 4, 8, 16, 32, 64)
    fp8 = np.arange(128, dtype=np.uint8).view(jnp.float8_e5m2).astype(np.float32)[:124]
    np.testing.assert_array_equal(np.array(float_levels(5, 2)[:124]), fp8 * 2.0**14)


def test_a_rule_means_the_same_levels_for_ever():
    rules = [Levels("power", b, (1.0, 0.5, 0.3, 1 / 3)) for b in range(2, 9)]
    rules += [Levels("float", b, tuple(range(b - 1))) for b in range(2, 9)]
    found = b"".join(np.asarray(tables(rule), "<f4").tobytes() for rule in rules)
    assert zlib.crc32(found) == LEVELS_CRC
    assert Levels("power", 4, (1,)) != Levels("float", 4, (1,))


LEVELS_CRC = 758714245


@pytest.mark.parametrize(
    "rule",
    [("power", 9, (1.0,)), ("power", 4, ()), ("power", 4, (0.01,)), ("float", 4, (3,)), "e", (2,)],
)
def test_what_is_no_rule_is_refused(rule):
    wrong = Levels(*rule) if len(rule) == 3 else Levels("power", 4, rule)
    with pytest.raises(UnsupportedInput, match="levels of 2 to 8 bits"):
        tables(wrong)
    with pytest.raises(UnsupportedInput):
        check(Format(4, table=wrong))
    assert from_static({"Levels": {"kind": wrong.kind, "bits": 4, "of": [0.5]}}).of == (0.5,)


def golden_tree():
    w = jnp.asarray((np.arange(128).reshape(16, 8) * 37 % 101 - 50) ** 3 / 1000.0, jnp.float32)
    methods = {
        "power": power(INT2._replace(group=8), exponents=(1.0, 0.5)),
        "one": power(INT2, exponents=(0.5,)),
        "floats": llm_fp4(Format(3, offset=4), mantissas=(0, 1)),
    }
    return {name: method.compress(w, None, (-2,)) for name, method in methods.items()}


@pytest.mark.parametrize("name", ["tables_v1", "levels_v1"])
def test_golden_files(name):
    """tables_v1 was written when leaves held their tables as they stand."""
    found, now = jc.io.load_weights(GOLDEN / f"{name}.jxc"), golden_tree()
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(now), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))
    for key, leaf in now.items():
        np.testing.assert_array_equal(found[key].dense(), leaf.dense())
        assert found[key].describe() == leaf.describe()
    assert jax.tree.structure(found) == jax.tree.structure(now) or name == "tables_v1"


@pytest.mark.parametrize("method", [power(INT8), llm_fp4(INT8), power(INT8, exponents=(0.5,))])
def test_files_are_as_large_as_memory_and_a_short_index(method, tmp_path):
    rng = np.random.default_rng(0)
    tree = {f"w{i}": jnp.asarray(rng.normal(size=(64, 64)), jnp.float32) for i in range(6)}
    small = jc.weights.compress(tree, method, axes=-2)
    size, ours = jc.tree.nbytes(small), jc.io.save_weights(tmp_path / "w", small)
    assert ours < size + 2000  # six leaves: tables would be 6 KB deflated, once
    assert abs(jc.io.coded_nbytes(small) - ours) < 0.01 * ours
    assert jc.io.save_safetensors(tmp_path / "s", small) < size + 6 * 1000
