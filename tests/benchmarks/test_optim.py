"""The table of compressed training on a task of two numbers: cells, searches, bytes and claims."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import optim, optim_report, optim_tasks
from benchmarks.optim_tasks import SENDERS, Task


@pytest.fixture
def task():
    """Least squares in 8 x 4 numbers."""
    x = jax.random.normal(jax.random.key(0), (SENDERS * 4, 8))
    y = x @ jnp.arange(32.0).reshape(8, 4) / 32
    data = dict.fromkeys(("train", "validation", "held_out"), (x, y))
    return Task(
        "text",
        lambda key: {"w": jnp.zeros((8, 4))},
        lambda params, batch: jnp.square(batch[0] @ params["w"] - batch[1]).mean(),
        lambda data, key: data,
        data,
        20,
        True,
        1.0,
        0.25,
    )


def test_a_table_goes_on_where_it_was_stopped(task, tmp_path, monkeypatch):
    results = optim.Results(tmp_path / "found.json")
    optim.fill(task, "nesterov", results)
    optim.fill(task, "top_k 1 % + EF", results)
    cells = optim.Results(tmp_path / "found.json").found["cells"]
    assert cells.keys() == {
        f"text|{m}|{s}" for m in ("nesterov", "top_k 1 % + EF") for s in (0, 1, 2)
    }
    cell = cells["text|nesterov|0"]
    assert cell["held_out"][-1] < cell["held_out"][0] and len(cell["held_out"]) == optim.POINTS
    assert cell["dense_nbytes"] == 20 * 2 * 7 * 32 * 4 // 8
    flag = cell["sent_nbytes"][-1] - cell["dense_nbytes"]  # that a sender's gradients are finite
    assert flag == 20 * 7  # an all-reduce of 4 bytes
    rates = [key for key in results.found["rates"] if "|nesterov|" in key]
    best = optim.best_rate(results, "text", "nesterov")
    near = {f"text|nesterov|{cell['rate'] * 2**by:g}" for by in (-0.5, 0, 0.5)}
    assert f"{cell['rate']:g}" == f"{best:g}" and near <= set(rates)
    row = optim_report.rows_of(results.found, "text")["top_k 1 % + EF"]
    # One of 32 entries: a float32, and a place of 5 bits, packed in eights, and 2, to seven others.
    assert row["nbytes"] == 20 * 7 * 10 + flag
    assert row["ratio"] == cell["sent_nbytes"][-1] / row["nbytes"]
    # 64 senders have shards of one number, half of them of filling.
    assert row["ratios"][64] == (2 * 63 * 4 + 8) / (63 * 10 + 8)
    optim_report.draw(results.found, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000
    monkeypatch.setattr(optim, "program", None)
    optim.fill(task, "nesterov", results)  # nothing is left to do


def test_a_row_that_sends_too_much_does_not_hold_and_others_are_judged():
    def cells(name, loss, sent):
        cell = {"rate": 1.0, "held_out": [loss], "sent_nbytes": [sent]}
        return {f"{task}|{name}|{seed}": cell for task in ("text", "mnist") for seed in (0, 1)}

    few = cells("one_bit_adam", 1.0, 500) | cells("adam8bit", 1.0, 1000)
    lines = optim_report.claims({"cells": cells("adam", 1.0, 1000) | few, "bytes": {}})
    for task in ("text", "mnist"):
        assert f"DOES NOT HOLD: {task}: one_bit_adam sends 2.0 x less, not 4" in lines
        assert any(line.startswith(f"holds: {task}: adam8bit within 0.5 %") for line in lines)


def test_patches_are_those_of_a_convolution():
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    w = jax.random.normal(jax.random.key(2), (48, 5))
    expected = jax.lax.conv_general_dilated(
        x,
        w.reshape(4, 4, 3, 5),
        (2, 2),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    np.testing.assert_allclose(optim_tasks.patches(x) @ w, expected, rtol=1e-4, atol=1e-4)
