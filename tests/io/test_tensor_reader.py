"""What is asked for is decoded in order, by threads, a few chunks ahead (see also test_tensors)."""

import hashlib
import io
import threading

import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.io.tensor_reader import in_order


def test_results_come_in_order_and_few_are_ahead():
    begun, taken, lock = [], [], threading.Lock()

    def work(i):
        with lock:
            begun.append(i)
            assert len(begun) - len(taken) <= 6 + 3  # in the queue, and at work
        return i * i

    for result in in_order(work, ((i,) for i in range(200)), 3):
        with lock:
            taken.append(result)
    assert taken == [i * i for i in range(200)]
    with pytest.raises(ZeroDivisionError):
        list(in_order(lambda i: 1 // (5 - i), ((i,) for i in range(9)), 2))


def test_all_arrays_one_after_another_and_parts_of_them():
    tree = {"a": np.arange(100), "b": np.zeros((0, 2)), "c": np.float32(2)}
    file = io.BytesIO()
    jc.io.save_tensors(file, tree, chunk_nbytes=64)
    with jc.io.open_tensors(file, threads=2) as found:
        for got, expected in zip(found.arrays(found.rows), tree.values(), strict=True):
            np.testing.assert_array_equal(got, expected)
        parts = [values for row, values in found.parts(found.rows) if row.name == "a"]
        np.testing.assert_array_equal(np.concatenate(parts), tree["a"])
        sums = [total for _, total in found.parts(found.rows, lambda row, x: x.sum())]
        assert sum(sums) == 4950 + 2 and len(sums) == 13 + 1
        assert found.coded_nbytes(found.row("c")) == 5
        assert found.sha256 == hashlib.sha256(file.getvalue()).hexdigest()
