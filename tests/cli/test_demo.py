"""demo: verified, tabulated, drawn; and it notices a decoder that keeps no promise."""

import json

import numpy as np
import pytest
from PIL import Image

import tests.toy_codec
from jaxcomp.cli.main import main

pytestmark = pytest.mark.usefixtures("workplace")


def test_table_and_picture(capsys):
    assert main(["demo"]) == 0
    out = capsys.readouterr().out
    assert out.count("exactly") == 6 and "jaxcomp-demo.png" in out
    with Image.open("jaxcomp-demo.png") as sheet:
        assert sheet.width > 4 * 451 and sheet.height > 3 * 300
    assert main(["demo", "other.png", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["picture"] == "other.png"
    for codec in ("learned", "dct"):
        rows = [row for row in record["rows"] if row["codec"] == codec]
        sizes = [row["bytes"] for row in rows]
        assert len(rows) == 3 and sizes == sorted(sizes)
        assert all(row["decoded_exactly"] and row["jpeg_bytes"] <= row["bytes"] for row in rows)


def test_a_broken_promise_is_an_error(capsys, monkeypatch):
    codec = tests.toy_codec.toy()

    def apply(params, x, **options):
        image, bits = codec.apply(params, x, **options)
        image[0, 0, 0] ^= 1
        return image, bits

    monkeypatch.setattr(tests.toy_codec, "toy", lambda: codec._replace(apply=apply))
    assert main(["demo"]) == 2
    assert "got 1 samples that differ" in capsys.readouterr().err


def test_the_bundled_photo_states_its_source():
    from importlib import resources

    folder = resources.files("jaxcomp.cli").joinpath("demo_photo")
    assert "CC0" in folder.joinpath("README.md").read_text()
    with Image.open(folder.joinpath("chelsea.png")) as image:
        assert image.mode == "RGB" and np.asarray(image).shape == (300, 451, 3)
