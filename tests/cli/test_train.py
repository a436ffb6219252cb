"""train: a run that says what it is, refuses to become another, and resumes to the same bits."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxcomp.cli.main import main
from jaxcomp.codecs import files, latent_coding
from jaxcomp.codecs.latent_codec import Design
from tests.cli.toy_training import patch, steps, weights

SMALL = latent_coding.latent_codec(Design("mean_scale", (24,), side=8, width=16))


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "find", lambda name: SMALL)
    monkeypatch.setattr("jaxcomp.cli.common.start_jax", lambda **_: None)
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    Path("photos").mkdir()
    for i in range(3):
        pixels = np.kron(rng.integers(0, 256, (12, 15, 3), dtype=np.uint8), np.ones((8, 8, 1)))
        Image.fromarray(pixels.astype(np.uint8)).save(f"photos/{i}.png")
    return "photos"


@pytest.fixture
def toy(photos, monkeypatch):
    """Run a quick codec of any name: toy(out, ...) -> status."""
    patch(monkeypatch.setattr)
    return lambda out, *more: main(command(photos, out, "--still", "", *more))


def command(photos, out, *more):
    sizes = ["--crop", "64", "--batch", "8", "--steps", "4", "--every", "2"]
    return ["train", "image", "--data", photos, "--out", out, *sizes, *more]


def settings(run):
    return json.loads(Path(run, "settings.json").read_text())


def test_runs_are_not_mixed_up(photos, capsys):
    assert main(command(photos, "new", "--resume")) == 2
    assert "no run to resume" in capsys.readouterr().err
    assert main(command(photos, "odd", "--crop", "100")) == 2
    assert "multiple of 64" in capsys.readouterr().err
    assert main(command(photos, "odd", "--batch", "9")) == 2
    assert "multiple of 8 devices" in capsys.readouterr().err
    assert main(command("nowhere", "none")) == 2
    assert "found none" in capsys.readouterr().err
    assert not Path("new").exists() and not Path("odd").exists() and not Path("none").exists()


def test_a_run_stays_what_it_was(toy, capsys):
    assert toy("run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[0].startswith("step 2 of 4") and "images/s" in lines[1]
    log = [json.loads(line) for line in Path("run/log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in log] == [2, 4] and Path("run/curve.png").exists()
    assert toy("run") == 2
    assert "say --resume" in capsys.readouterr().err
    assert toy("run", "--resume", "--steps", "6") == 2
    assert "begun with steps=4" in capsys.readouterr().err

    whole = weights(Path("run"))
    shutil.rmtree("run/checkpoints/4")  # as if it had stopped there
    Path("run/weights.jxw").unlink()
    assert toy("run", "--resume") == 0 and steps(Path("run")) == [2, 4]
    assert all((whole[name] == value).all() for name, value in weights(Path("run")).items())


def test_a_run_begins_with_the_weights_of_another(toy, capsys):
    assert toy("first", "--learning-rate", "0.01") == 0
    still = ["--begin", "first", "--still", "analysis,prior,synthesis", "--seed", "2"]
    assert toy("second", *still) == 0
    first, second = weights(Path("first")), weights(Path("second"))
    for name, value in first.items():
        np.testing.assert_allclose(second[name], value, rtol=1e-6)
    assert settings("second")["begin"] == str(Path("first").absolute())
    assert json.loads(Path("second/log.jsonl").read_text().splitlines()[0])["step"] == 2

    shutil.rmtree("second/checkpoints")  # as if it had stopped before its first
    assert toy("second", *still[2:], "--resume") == 0
    assert all((second[name] == value).all() for name, value in weights(Path("second")).items())
    assert toy("second", "--begin", "photos", *still[2:], "--resume") == 2
    assert "begun with begin=" in capsys.readouterr().err


def test_what_a_run_cannot_begin_with_is_named(toy, capsys):
    assert toy("next", "--begin", "photos") == 2
    assert "photos: expected the folder of a run" in capsys.readouterr().err
    assert toy("next", "--begin", "learned", "--codec", "hyperprior") == 2
    assert "got one of channel_conditional; say" in capsys.readouterr().err
    photo = next(str(path) for path in Path("photos").glob("*.png"))
    assert toy("next", "--begin", photo) == 2
    assert "expected it to begin with" in capsys.readouterr().err
    Path("other").mkdir()
    Path("other/settings.json").write_text("[]")
    assert toy("next", "--begin", "other") == 2
    assert "expected the settings of a run" in capsys.readouterr().err
    Path("other/settings.json").write_text('{"codec": "hyperprior"}')
    assert toy("next", "--begin", "other") == 2
    assert "got one of hyperprior" in capsys.readouterr().err
    assert toy("next", "--begin", "other", "--codec", "hyperprior") == 2
    assert "expected a checkpoint, found none" in capsys.readouterr().err
    assert not Path("next").exists()


def test_precision_is_a_setting(toy, capsys):
    assert toy("mixed", "--precision", "bfloat16") == 0 and toy("usual") == 0
    assert settings("mixed")["precision"] == "bfloat16"
    assert settings("usual")["precision"] == "float32"  # tests run on a CPU
    mixed, usual = weights(Path("mixed")), weights(Path("usual"))
    assert all((mixed[name] != value).any() for name, value in usual.items())
    assert toy("mixed", "--resume") == 0
    assert toy("mixed", "--resume", "--precision", "float32") == 2
    assert "begun with precision=bfloat16" in capsys.readouterr().err

    # A run of before there was a choice goes on as it was.
    old = {k: v for k, v in settings("usual").items() if k not in ("begin", "precision", "still")}
    Path("usual/settings.json").write_text(json.dumps(old))
    assert toy("usual", "--resume") == 0
    assert toy("usual", "--resume", "--still", "prior") == 2
    assert "begun with still=" in capsys.readouterr().err


@pytest.mark.slow  # a compilation of a training step, of minutes
def test_a_trained_codec_makes_files(photos, capsys):
    assert main(command(photos, "whole")) == 0
    with Image.open("photos/0.png") as image:
        image.crop((0, 0, 50, 40)).save("photo.png")
    given = ["--weights", "whole/weights.jxw"]
    assert main(["compress", "photo.png", "photo.jxc", *given]) == 0
    assert main(["decompress", "photo.jxc", "back.png", *given]) == 0
    with Image.open("back.png") as image:
        assert image.size == (50, 40)
    capsys.readouterr()
    assert main(["decompress", "photo.jxc", "back.png"]) == 2
    assert "pass the weights" in capsys.readouterr().err
