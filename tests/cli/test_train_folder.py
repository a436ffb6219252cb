"""The settings of a run: written once, and the same ever after."""

import argparse
import json
from pathlib import Path

import pytest

from jaxcomp.base import JaxcompError
from jaxcomp.cli import train_folder

ASKED = {
    "codec": "mean_scale",
    "steps": 10,
    "batch": 8,
    "crop": 64,
    "learning_rate": 1e-3,
    "seed": 1,
    "still": "analysis,gain",
    "begin": "",
    "precision": "auto",
}


def settle(folder, **changed):
    arguments = argparse.Namespace(**{**ASKED, "data": "photos", "resume": False, **changed})
    train_folder.settle(folder, arguments, [Path("photos/a.png")])
    return arguments


def test_what_is_left_open_comes_from_the_run(tmp_path):
    folder = tmp_path / "run"
    settle(folder, begin="other", still="prior", precision="bfloat16")
    found = settle(folder, resume=True)
    assert found.begin == str(Path("other").absolute()) and found.still == "prior"
    assert found.precision == "bfloat16"
    with pytest.raises(JaxcompError, match="holds a run; say --resume"):
        settle(folder)
    with pytest.raises(JaxcompError, match="begun with steps=10; resume with the same"):
        settle(folder, resume=True, steps=11)


def test_the_weights_that_jaxcomp_brings_are_no_path(tmp_path):
    assert settle(tmp_path / "run", begin="learned").begin == "learned"
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["begin"] == "learned"


def test_settings_of_something_else_are_named(tmp_path):
    (tmp_path / "settings.json").write_text("[1]")
    with pytest.raises(JaxcompError, match="expected the settings of a run"):
        settle(tmp_path, resume=True)
