"""train: a run that says what it is, refuses to become another, and resumes to the same bits."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxcomp.cli import train
from jaxcomp.cli.main import main
from jaxcomp.codecs import files, latent_coding
from jaxcomp.codecs.latent_codec import Design

SMALL = latent_coding.latent_codec(Design("mean_scale", (24,), side=8, width=16))


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "find", lambda name: SMALL)
    monkeypatch.setattr("jaxcomp.cli.common.start_jax", lambda: None)
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    Path("photos").mkdir()
    for i in range(3):
        pixels = np.kron(rng.integers(0, 256, (12, 15, 3), dtype=np.uint8), np.ones((8, 8, 1)))
        Image.fromarray(pixels.astype(np.uint8)).save(f"photos/{i}.png")
    return "photos"


def command(photos, out, *more):
    sizes = ["--crop", "64", "--batch", "8", "--steps", "4", "--every", "2"]
    return ["train", "image", "--data", photos, "--out", out, *sizes, *more]


def test_runs_are_not_mixed_up(photos, capsys):
    assert main(command(photos, "new", "--resume")) == 2
    assert "no run to resume" in capsys.readouterr().err
    assert main(command(photos, "odd", "--crop", "100")) == 2
    assert "multiple of 64" in capsys.readouterr().err
    assert main(command("nowhere", "none")) == 2
    assert "found none" in capsys.readouterr().err
    assert main(command(photos, "odd", "--crop", "64")) == 2
    assert "say --resume" in capsys.readouterr().err
    assert main(command(photos, "odd", "--crop", "64", "--resume")) == 2
    assert "begun with crop=100" in capsys.readouterr().err


@pytest.mark.slow  # three compilations of a training step
def test_a_resumed_run_is_the_same_run(photos, capsys):
    assert main(command(photos, "whole")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[0].startswith("step 2 of 4") and "images/s" in lines[1]
    log = [json.loads(line) for line in Path("whole/log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in log] == [2, 4] and Path("whole/curve.png").exists()

    from jaxcomp.io.crops import PhotoFolder

    names = dict(codec="mean_scale", steps=4, batch=8, crop=64, learning_rate=1e-3, seed=1)
    arguments = argparse.Namespace(**names, every=2, out="parts", data=photos, resume=False)
    train._settle(Path("parts"), arguments)
    run = train._train(PhotoFolder(photos), Path("parts"), arguments)
    next(run)
    run.close()  # stopped after the first report
    assert main(command(photos, "parts", "--resume")) == 0
    assert Path("parts/weights.jxw").read_bytes() == Path("whole/weights.jxw").read_bytes()
    with Image.open("photos/0.png") as image:
        image.crop((0, 0, 50, 40)).save("photo.png")
    weights = ["--weights", "whole/weights.jxw"]
    assert main(["compress", "photo.png", "photo.jxc", *weights]) == 0
    assert main(["decompress", "photo.jxc", "back.png", *weights]) == 0
    with Image.open("back.png") as image:
        assert image.size == (50, 40)
    assert main(["decompress", "photo.jxc", "back.png"]) == 2
    assert "pass the weights" in capsys.readouterr().err
