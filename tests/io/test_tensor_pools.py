"""Small arrays share chunks: all come back, each from one chunk, whatever is asked for."""

import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jaxcomp as jc
from jaxcomp.coding.chunked import Reader, Writer
from jaxcomp.io import tensor_pools, tensor_writer
from jaxcomp.io.tensor_pools import BEGINS, FOLLOWS, Pools, Recent, common_width
from jaxcomp.io.tensor_rows import make_row

GOLDEN = Path(__file__).parents[1] / "golden" / "tensors_v2_pools.jxc"
NAMES = "int8", "uint16", "bfloat16", "float32", "float64", "bool"
SHAPES = (), (0,), (1,), (3, 2), (0, 5), (5, 3), (2, 2, 4), (17,), (40,), (3, 33)


@st.composite
def arrays(draw):
    """Any list of arrays: of one value, or of many."""
    found = {}
    for i in range(draw(st.integers(0, 12))):
        dtype = jc.io.tree_nodes.dtype_of(draw(st.sampled_from(NAMES)))
        shape = draw(st.sampled_from(SHAPES))
        seed = draw(st.integers(0, 99))
        raw = np.random.default_rng(seed).integers(0, 1 + seed % 2, (*shape, dtype.itemsize))
        found[f"x{i}"] = raw.astype(np.uint8).reshape(-1).view(dtype).reshape(shape)
    return found


def saved(tree, **options):
    file = io.BytesIO()
    jc.io.save_tensors(file, iter(tree.items()), **options)
    return file


def check_same(found, tree):
    found, tree = list(found), list(map(np.asarray, tree))
    assert len(found) == len(tree)
    for x, y in zip(found, tree, strict=True):
        assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes())


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(arrays(), st.sampled_from([16, 100, 1 << 22]), st.booleans(), st.randoms())
def test_any_arrays_come_back_all_or_one_or_a_slice(tree, chunk_nbytes, delta, random):
    options = {"base": None}
    if delta:  # some are in the base, some are not, some are of another shape
        before = {name: x ^ x if x.dtype.kind in "iub" else x for name, x in tree.items()}
        gone = random.sample(sorted(before), len(before) // 3)
        base = saved({n: x[None] if n in gone else x for n, x in before.items()}, chunk_nbytes=16)
        options["base"] = jc.io.open_tensors(base, threads=1)
    file = saved(tree, chunk_nbytes=chunk_nbytes, threads=1, **options)
    with jc.io.open_tensors(file, threads=1, **options) as opened:
        check_same(opened.arrays(opened.rows), tree.values())
        mixed = random.choices(opened.rows, k=2 * len(opened.rows)) if opened.rows else []
        check_same(opened.arrays(mixed), [tree[row.name] for row in mixed])
        parts = {row.name: b"" for row in opened.rows}
        for row, values in opened.parts(opened.rows):
            parts[row.name] += values.tobytes()
        assert parts == {name: x.tobytes() for name, x in tree.items()}
        for name, x in tree.items():
            check_same([opened.read(name)], [x])
            if x.shape:
                check_same([opened.read(name, 1, -1)], [x[1:-1]])
        assert opened.verify() == opened.verify(decode=True) == len(opened._file.lengths)
        infos = jc.io.array_infos(opened, entropy=False)
        assert [info.name for info in infos] == list(tree)
        assert sum(info.coded_nbytes for info in infos) == sum(opened._file.lengths)


def test_many_small_arrays_are_one_chunk_and_each_pool_is_decoded_once():
    tree = {f"b{i}": np.arange(200 + i, dtype=np.float32) * i for i in range(40)}
    tree |= {f"i{i}": np.arange(9) for i in range(5)}
    seen = []
    file = saved(tree, progress=seen.append)
    assert sum(seen) == sum(x.nbytes for x in tree.values()) and len(seen) == 3
    with jc.io.open_tensors(file, threads=2) as opened:
        read, chunk = [], opened._file.chunk
        opened._file.chunk = lambda number: read.append(number) or chunk(number)
        check_same(opened.arrays(opened.rows), tree.values())
        assert sorted(read) == [0, 1, 2]
        some = list(opened.arrays(opened.rows[:3])), list(opened.arrays(opened.rows[:1] * 2))
        assert all(x.base is None for found in some for x in found)  # it holds no more
        read[3:] = []
        assert sum(x.sum() for _, x in opened.parts(opened.rows)) > 0 and len(read) == 6
        check_same(map(opened.read, opened.names), tree.values())  # one by one, as well
        assert len(read) == 9
        assert opened.kinds(opened.row("i3")) == {"raw": 1}
        info = jc.io.array_infos(opened, entropy=False)[3]
        assert info.shared and 0 < info.coded_nbytes < info.nbytes


def test_a_delta_is_against_the_same_arrays_and_new_ones_are_apart():
    rng = np.random.default_rng(0)
    tree = {f"{i:02}": rng.normal(size=(20, 30)).astype(np.float32) for i in range(20)}
    after = {name: x + np.float32(1e-5) for name, x in tree.items()}
    first = saved(tree)
    with jc.io.open_tensors(first) as base:
        small = saved(after, base=base).getbuffer().nbytes
        assert small < 0.75 * saved(after).getbuffer().nbytes
        more = after | {"99": rng.normal(size=9).astype(np.float32)}
        file = saved(more, base=base)
        assert file.getbuffer().nbytes < small + 200
        with jc.io.open_tensors(file, base=base) as opened:
            assert [len(rows) for rows in opened._pools.values()] == [20, 1]
            check_same(opened.arrays(opened.rows), more.values())
            assert {*opened.kinds(opened.row("07"))} == {"delta subtract"}


def test_memory_is_that_of_few_pools_and_arrays_are_not_kept(monkeypatch, tmp_path):
    """Views of larger arrays are let go; a file in an odd order holds few pools at once."""
    monkeypatch.setattr(tensor_writer, "SHARED", 1 << 12)
    monkeypatch.setattr(tensor_pools, "HELD", 2)
    each, count, path = 1 << 12, 200, tmp_path / "x.jxc"
    noise = np.random.default_rng(0).integers(0, 256, 1 << 19, np.uint8)

    def tree():
        for i in range(count):
            yield f"{i}", lambda i=i: (noise ^ np.uint8(i % 256))[:each]

    def peak(function):
        tracemalloc.start()
        function()
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    options = {"threads": 1, "chunk_nbytes": 1 << 16}
    assert peak(lambda: jc.io.save_tensors(path, tree(), **options)) < 6 << 20
    with jc.io.open_tensors(path, threads=1) as opened:
        assert len(opened._file.lengths) == -(-count // 16)
        odd = [row for k in range(40) for row in opened.rows[k::40]]
        assert peak(lambda: [x.sum() for _, x in opened.parts(odd)]) < 2 << 20
        for row, x in opened.parts(odd):
            assert (x == noise[:each] ^ np.uint8(int(row.name) % 256)).all()


def test_damage_is_named():
    """Any byte of what the index says of pools, under checksums that fit."""
    file = saved({f"{i}": np.full(9 + i, i, np.int16) for i in range(6)} | {"e": np.zeros(0)})
    with Reader(file) as reader:
        chunks = [reader.chunk(k) for k in range(len(reader.lengths))]
        header, index = reader.header, reader.index
    for place in range(len(index["arrays"])):
        for entry in (
            ["new", "int16", [5], 1],
            ["new", "int16", [1 << 30], 2],
            ["x", "int8", [0], 2],
        ):
            bad = io.BytesIO()
            writer = Writer(bad, "tensors", header)
            for chunk in chunks:
                writer.add(chunk)
            writer.finish({**index, "arrays": [*index["arrays"][:place], entry]})
            with pytest.raises(jc.CorruptStream):
                jc.io.load_tensors(bad, threads=1)


def golden_tree():
    noise = (np.arange(1200, dtype=np.uint64) * 2654435761).astype(np.uint32)
    tree = {f"f{i}": noise[i : 5 * i + 1].view(np.float32) for i in range(9)}
    return tree | {"s": np.int16(7), "t": noise.reshape(-1, 3).view(np.int32), "u": np.int16(9)}


def test_golden_pools_are_read_for_ever():
    """Values are noise, which is stored: the bytes are of this layout alone."""
    data = saved(golden_tree(), chunk_nbytes=300).getvalue()
    with Reader(io.BytesIO(data)) as now, Reader(GOLDEN) as then:
        assert (now.header, now.index, now.lengths) == (then.header, then.index, then.lengths)
    with jc.io.open_tensors(GOLDEN) as opened:
        check_same(opened.arrays(opened.rows), golden_tree().values())


def test_rows_of_one_width_stay_rows():
    def width(*shapes):
        return common_width([make_row("x", np.float32, shape, 0, 1 << 20) for shape in shapes])

    assert width((20, 384), (384,), (9, 1536)) == 384
    assert width((16, 16, 3, 3), (32, 16, 3, 3), (288,)) == 144
    assert width((20, 384), (385,)) == width((384,), ()) == width((9,)) == 1
    assert width((20, 3, 16), (96, 5)) == 30  # whole arrays are rows of it
    pools = Pools(64)
    row = make_row("x", np.float32, (16,), 0, 64)
    assert pools.has_room(row, BEGINS) and not pools.has_room(row, FOLLOWS)


def test_the_last_results_are_kept():
    made = []

    def function(number):
        made.append(number)
        return 1 // number

    recent = Recent(function, 2)
    assert [recent(n) for n in (1, 2, 1, 3, 1, 2)] == [1, 0, 1, 0, 1, 0]
    assert made == [1, 2, 3, 2]
    failing = [KeyboardInterrupt()]
    recent = Recent(lambda n: n if not failing else (_ for _ in ()).throw(failing.pop()), 2)
    with pytest.raises(KeyboardInterrupt):
        recent(7)
    assert recent(7) == 7
