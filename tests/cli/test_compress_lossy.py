"""jaxcomp compress with loss: what was asked for, said in the file, and no claim of equal bytes."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxcomp as jc
from jaxcomp.cli.main import main

pytestmark = pytest.mark.usefixtures("workplace")
DRAW = np.random.default_rng(0)
W = DRAW.standard_normal((64, 128)).astype(np.float32)


def said(capsys, *arguments):
    assert main([*arguments, "--json"]) == 0
    out, err = capsys.readouterr()
    return json.loads(out), err


def refused(capsys, *arguments):
    assert main(list(arguments)) == 2
    return capsys.readouterr().err


def test_bounds_and_ratios(capsys):
    save_file({"w": W, "steps": np.arange(9)}, "x.safetensors")
    done, err = said(capsys, "compress", "x.safetensors", "x.jxc", "--error-bound", "0.01")
    assert done["bounded_arrays"] == 1 and done["bound_kind"] == "range" and done["ratio"] < 0.25
    assert 0.005 < done["largest_error"] <= 0.01 and "not the same bytes" in err
    _, err = said(capsys, "decompress", "x.jxc", "y.safetensors")
    assert "note: x.jxc: 1 arrays are within a bound" in err
    back = load_file("y.safetensors")
    assert np.abs(back["w"] - W).max() <= 0.01 * np.ptp(W)
    np.testing.assert_array_equal(back["steps"], np.arange(9))
    info, _ = said(capsys, "info", "x.jxc")
    found = {x["name"]: x for x in info["arrays"]}
    assert found["w"]["bound"] == 0.01 and found["w"]["error"] == done["largest_error"]
    assert found["steps"]["bound"] is None
    assert main(["info", "x.jxc"]) == 0
    assert " of 0.01 range" in capsys.readouterr().out and main(["verify", "x.jxc"]) == 0
    capsys.readouterr()
    options = ["--target-ratio", "5", "--bound-kind", "relative"]
    done, _ = said(capsys, "compress", "x.safetensors", "r.jxc", *options)
    assert 0.19 < done["ratio"] <= 0.2 and done["bound_kind"] == "relative"


def test_formats_of_few_bits(capsys):
    save_file({"w": W, "bias": W[0]}, "x.safetensors")
    options = ["--format", "int4-g128", "--method", "hqq"]
    done, err = said(capsys, "compress", "x.safetensors", "x.jxc", *options)
    assert done["compressed_arrays"] == 1 and done["ratio"] < 0.3 and "load_weights" in err
    tree = jc.io.load_weights("x.jxc")
    np.testing.assert_array_equal(tree["bias"], W[0])
    error = np.square(np.asarray(tree["w"].dense()) - W).mean()
    assert 0 < error < 0.02
    assert "jaxcomp convert" in refused(capsys, "decompress", "x.jxc", "y.safetensors")


def test_options_that_do_not_fit_are_named(capsys):
    np.save("x.npy", W)
    for options, text in (
        (["--format", "int5"], "expected --format among int8"),
        (["--format", "nf4", "--method", "hqq"], "got a table"),
        (["--format", "int4", "--error-bound", "1"], "expected one of --error-bound"),
        (["--bound-kind", "range"], "expected one of --error-bound"),
        (["--error-bound", "1", "--target-ratio", "2"], "got both"),
        (["--error-bound", "1", "--axis", "0"], "--axis does not go"),
        (["--error-bound", "1", "--bound-kind", "relative"], "below 1"),
        (["--error-bound", "0.1", "--quality", "5"], "--quality is for photos"),
    ):
        assert text in refused(capsys, "compress", "x.npy", "x.jxc", *options)
    assert "--format is for models" in refused(
        capsys, "compress", "x.png", "x.jxc", "--format", "int4"
    )
