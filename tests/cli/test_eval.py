"""eval: matched quality, an honest table, and curves on request."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from jaxcomp.cli import eval as evaluation
from jaxcomp.cli.main import main


@pytest.fixture(autouse=True)
def smooth_photo(workplace):
    """A small photo that every format can approach."""
    y, x = np.mgrid[0:48, 0:64]
    waves = np.stack([x * 4 % 256, y * 5 % 256, (x + y) * 2], axis=-1) + np.sin(x * y)[..., None]
    Image.fromarray(np.clip(waves, 0, 255).astype(np.uint8)).save("p.png")


def test_table_json_and_plot(capsys):
    assert main(["eval", "p.png", "p.png", "--plot", "c.png", "--quality", "80"]) == 0
    out = capsys.readouterr().out
    assert out.count("at the PSNR of jaxcomp") == 2 and "mean BD-rate against JPEG" in out
    with Image.open("c.png") as plot:
        assert plot.width > 1000  # two panels
    assert main(["eval", "p.png", "--json", "--quality", "80"]) == 0
    (record,) = json.loads(capsys.readouterr().out)["photos"]
    rows = {row["format"]: row for row in record["rows"]}
    ours, jpeg = rows["jaxcomp"], rows["JPEG"]
    assert list(rows)[:2] == ["jaxcomp", "JPEG"] and len(rows) >= 2
    assert ours["bpp"] == 8 * ours["bytes"] / (48 * 64)
    assert abs(jpeg["bd_rate_percent"]) < 1e-9  # against itself
    assert "ms_ssim" not in ours  # 48 pixels are too few for five scales
    for row in rows.values():
        if "psnr_db" in row:
            assert row["psnr_db"] >= ours["psnr_db"]


def test_matching_finds_the_lowest_setting_that_reaches():
    calls = []

    def make(setting):
        calls.append(setting)
        noise = np.full((4, 4, 3), 100 - setting, np.uint8)
        return 10 * setting, noise

    curve = evaluation.Curve(np.zeros((4, 4, 3), np.uint8), make)
    curve.at(40), curve.at(90)
    target = curve.at(73).psnr_db
    del curve.points[73], calls[:]
    assert curve.reaching(target, 0, 99).setting == 73
    assert len(calls) <= 6 and min(calls) > 40 and max(calls) < 90
    assert curve.reaching(1e9, 0, 99) is None
    assert evaluation.Curve(curve.image, make).reaching(target, 0, 99).setting == 73


def test_plot_without_matplotlib_says_how_to_get_it(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["eval", "p.png", "--plot", "c.png"]) == 2
    assert "pip install 'jaxcomp[bench]'" in capsys.readouterr().err
