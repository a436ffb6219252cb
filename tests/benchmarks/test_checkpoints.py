"""The table of lossless checkpoints on little data: turns, states, bounds, claims."""

import json
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import checkpoints, checkpoints_report, checkpoints_turns, optim_tasks
from benchmarks import checkpoints_data as data


@pytest.fixture(scope="module")
def states():
    text = np.random.default_rng(0).integers(97, 123, 4000).astype(np.uint8)
    task = optim_tasks.bytes_task(text, 1)
    options = {"width": 16, "layers": 1, "last": 12, "ago": (0, 1)}
    return data.adam_states(task, dtype=jnp.bfloat16, **options)


def test_states_of_a_run_are_steps_apart(states):
    now, before = states[0], states[1]
    assert now.keys() == before.keys() and now["params/head"].dtype == data.BFLOAT16
    assert now["adam/0/mu/head"].dtype == np.float32
    assert (now["adam/0/count"], before["adam/0/count"]) == (12, 11)
    assert (now["params/head"] != before["params/head"]).any()


def test_a_turn_counts_the_bytes_of_a_whole_file(tmp_path):
    arrays = data.gaussian(1 << 17)
    row = checkpoints_turns.in_memory(arrays, 1)
    ideal = checkpoints_turns.bound(arrays)
    assert row["raw"] == 1 << 17 and ideal < row["nbytes"] < 1.03 * ideal
    source = tmp_path / "source.safetensors"
    checkpoints_turns.save_file(arrays, source)
    file = checkpoints_turns.of_files(source, tmp_path / "target.jxc", 2)
    assert row["nbytes"] < file["nbytes"] < row["nbytes"] + 1000
    assert min(file["encode"], file["decode"], row["encode"], row["decode"]) > 0


def test_a_table_goes_on_where_it_was_stopped(tmp_path, monkeypatch, capsys):
    out = tmp_path / "found.json"
    command = ["", "--nbytes", str(1 << 17), "--repeats", "1", "--only", "Gaussian"]
    command += ["--peers", str(tmp_path / "none"), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", command)
    checkpoints.main()
    found = json.loads(out.read_text())
    assert set(found["cells"]) == {
        f"Gaussian bf16|{m}" for m in ("memory|2", "memory|1", "files|2")
    }
    assert "holds: Gaussian bf16: 0.66" in capsys.readouterr().out
    monkeypatch.setattr(checkpoints, "cell", None)  # nothing is left to do
    checkpoints.main()


def test_claims_are_judged():
    def cell(nbytes, seconds):
        row = {"encode": seconds, "decode": seconds, "raw": 10**9, "n": 1}
        peer = row | {"nbytes": 7 * 10**8, "encode": 1.0, "decode": 1.0}
        return {"jaxcomp": row | {"nbytes": nbytes}, "zipnn": peer}

    def said(nbytes, seconds):
        cells = {"MiniLM bf16|memory|2": cell(nbytes, seconds)}
        cells |= {"Adam state f32|memory|2": cell(10**9, 1.0)}
        cells |= {"Adam state f32 since 1 step ago|memory|2": cell(nbytes, 1.0)}
        return checkpoints_report.claims({"cells": cells})

    good, bad = said(6 * 10**8, 0.5), said(95 * 10**7, 5.0)
    assert len(good) == len(bad) == 6
    # The state alone does not pass the peer in either.
    assert sum(line.startswith("holds") for line in good) == 5
    assert all(line.startswith("DOES NOT HOLD") for line in bad)
