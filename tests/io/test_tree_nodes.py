"""Nodes: any tree to JSON and back, and nothing in a file that names what is run."""

import importlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
import jaxcomp.formats as formats
from jaxcomp.base import CorruptStream
from jaxcomp.formats import INT4_G32, TERNARY, UINT4_G32, quantize
from jaxcomp.formats.leaf import Leaf, leaf_class
from jaxcomp.formats.sum import Sum
from jaxcomp.io.tree_nodes import (
    LEAVES,
    Reader,
    Writer,
    fill,
    flat,
    from_static,
    to_static,
    unnamed,
)


class State(NamedTuple):
    count: Any
    inner: Any


W = jnp.asarray(np.random.default_rng(0).normal(size=(64, 8)), jnp.float32)


def through(tree):
    """The tree by way of JSON text, and what the reader learnt of codes."""
    writer = Writer()
    node = json.loads(json.dumps(writer.node(tree)))
    reader = Reader([jnp.asarray(x) for x, _ in writer.rows])
    value = reader.value(node)
    assert reader.codes == {i: codes for i, (_, codes) in enumerate(writer.rows) if codes}
    return value


def equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def test_a_field_that_came_later_is_its_default_in_files_without_it():
    table, choices = jnp.ones((2, 1, 8, 1)), jnp.array([0, 1, 1])
    leaf = formats.codebook(jnp.zeros((3, 16), jnp.int32), table, None, choices, size=16)
    equal(through(leaf), leaf)
    leaf = formats.codebook(jnp.zeros((3, 16), jnp.int32), table[0, 0], size=16)
    writer = Writer()
    node = writer.node(leaf)
    assert node[2].pop("choices", 0) is None
    rows = [jnp.asarray(x) for x, _ in writer.rows]
    equal(Reader(rows).value(node), leaf)
    with pytest.raises(CorruptStream, match="expected the fields"):
        del node[2]["table"]
        Reader(rows).value(node)


def test_plain_trees_need_no_template():
    scales = INT4_G32._replace(scale=UINT4_G32._replace(group=-1))  # scales that are a QTensor
    small = {
        "b": [quantize(W, INT4_G32), (quantize(W, scales), quantize(W, UINT4_G32))],
        "a": {"empty": {}, "none": None, "list": [], "tuple": (), "steps": 3, "rate": 0.1},
        "sum": Sum((quantize(W, TERNARY), quantize(W, INT4_G32))),
    }
    back = through(small)
    equal(small, back)
    assert back["b"][0].format == small["b"][0].format and back["b"][0].dtype == jnp.float32
    assert hash(jax.tree.structure(back)) == hash(jax.tree.structure(small))
    assert [path for path, _ in flat(back)] == [path for path, _ in jc.tree.leaves(back)]


def test_other_nodes_come_back_into_a_template():
    tree = {"opt": State(np.int32(3), {1: W, 2: quantize(W, INT4_G32)}), "x": (W,)}
    saved = through(tree)
    assert unnamed(saved) == "State"
    like = {"opt": State(0, {1: 0, 2: W}), "x": (W,)}  # a dense template of a compressed leaf
    equal(fill(saved, like), tree)
    assert unnamed(through({"x": (W,)})) is None
    with pytest.raises(jc.UnsupportedInput, match="they differ in opt/inner/2, opt/inner/3"):
        fill(saved, {"opt": State(0, {1: 0, 3: W}), "x": (W,)})


@leaf_class
class Stranger(Leaf):
    codes: Any


def test_what_has_no_node_is_named():
    for tree, message in (
        ({"a": object()}, "^a: expected .* got object"),
        ((Stranger(W),), "^0: expected .* got Stranger"),
        (jax.random.key(0), "^expected arrays .*key_data"),
        ({"d": State(jax.random.key(0), 1)}, "^d/count: expected .*key_data"),
        (float("nan"), "finite"),
        (np.zeros(2, "S4"), "a dtype among"),
    ):
        with pytest.raises(jc.UnsupportedInput, match=message):
            Writer().node(tree)
    deep = [W]
    for _ in range(100):
        deep = [deep]
    with pytest.raises(jc.UnsupportedInput, match="deep"):
        Writer().node(deep)


def test_every_leaf_of_the_package_is_listed():
    for file in Path(formats.__file__).parent.glob("*.py"):
        module = importlib.import_module(f"jaxcomp.formats.{file.stem}")
        for name, cls in vars(module).items():
            if isinstance(cls, type) and issubclass(cls, Leaf) and cls is not Leaf:
                assert LEAVES.get(name), f"{name} of {file.name} is missing in LEAVES of tree_nodes"


def test_every_listed_class_is_a_leaf():
    for name in LEAVES:
        node = ["leaf", name, {}, {}]
        with pytest.raises(jc.CorruptStream, match="expected the fields"):
            Reader([]).value(node)


@pytest.mark.parametrize(
    "node",
    [
        5,
        -1,
        True,
        "text",
        [],
        ["value", [1]],
        ["value", 1, 2],
        ["dict", []],
        ["pickle", 1],
        {"leaf": 1},
        ["leaf", "QTensor", {}],
        ["leaf", "QTensor", {"codes": 0}, {"format": None}],
        ["node", "State", [0]],
    ],
)
def test_false_nodes_are_corrupt(node):
    with pytest.raises(jc.CorruptStream):
        Reader([None]).value(node)


def test_unknown_classes_formats_and_dtypes_are_of_another_version():
    for node in (["leaf", "Future", {}, {}], ["leaf", "os.system", {}, {}], ["leaf", 3, {}, {}]):
        with pytest.raises(jc.UnsupportedInput, match="install the jaxcomp"):
            Reader([]).value(node)
    with pytest.raises(jc.UnsupportedInput, match="expected a Format of bits"):
        from_static({"Format": {"bits": 4, "colour": 1}})
    with pytest.raises(jc.UnsupportedInput, match="expected a dtype among"):
        from_static({"dtype": "object"})
    with pytest.raises(jc.UnsupportedInput, match="a format among Format, Levels, Rule"):
        from_static({"Popen": {}})
    for bad in ({}, {"Format": 3}, {"Format": {"group": 3}}, {"Format": {"bits": "x"}}):
        with pytest.raises(jc.CorruptStream):
            from_static(bad)


def test_formats_are_kept_whole():
    every = [getattr(formats, name) for name in dir(formats)]
    every = [x for x in every if isinstance(x, formats.Format)]
    assert len(every) > 20
    for format in (*every, INT4_G32._replace(scale=UINT4_G32, zero="float16")):
        assert from_static(json.loads(json.dumps(to_static(format, "x")))) == format
    with pytest.raises(jc.UnsupportedInput, match=r"in QTensor\.format, got set"):
        to_static({1}, "QTensor.format")


def test_packed_axes_are_checked():
    good = Writer().node(quantize(W, INT4_G32))
    for packed in ([], [[0, 64]], [[-2, 0]], [[-2]], 3, [[-2, "64"]]):
        node = [*good[:3], {**good[3], "packed": packed}]
        with pytest.raises(jc.CorruptStream, match="packed axes"):
            Reader([None] * 2).value(node)


def test_scalars_of_numpy_are_arrays_and_dtypes_print_as_before():
    found = through({"step": np.float64(1.5), "w": quantize(W, INT4_G32)})
    assert found["step"] == 1.5 and found["step"].shape == ()
    assert repr(found["w"].dtype) == repr(quantize(W, INT4_G32).dtype)


@pytest.mark.parametrize(
    "field,value",
    [
        ("dtype", {"dtype": "int32"}),
        ("dtype", 4),
        ("format", {"Format": {"bits": 4, "name": "a\x1b[2J"}}),
        ("format", {"Format": {"bits": 4, "table": [0.0, 1.0]}}),
        ("format", {"Format": {"bits": 4, "scale": {"Format": {"bits": 99}}}}),
    ],
)
def test_static_fields_that_no_leaf_has_are_corrupt(field, value):
    writer = Writer()
    node = writer.node(quantize(W, INT4_G32))
    node[3][field] = value
    with pytest.raises(CorruptStream, match="of QTensor|in QTensor"):
        Reader([None] * len(writer.rows)).value(node)
