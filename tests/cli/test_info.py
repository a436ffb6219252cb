"""info: what a file holds, for people and for machines."""

import json
import os

import numpy as np
import pytest
from PIL import Image, ImageCms

import jaxcomp as jc
from jaxcomp.cli.main import main

pytestmark = pytest.mark.usefixtures("workplace")

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def test_compress_info_decompress(capsys, photo):
    pixels = photo("a.png", icc_profile=SRGB)
    assert main(["compress", "a.png", "a.jxc", "--quality", "100"]) == 0
    size = os.path.getsize("a.jxc")
    line = capsys.readouterr().out
    assert line == f"a.png -> a.jxc: 31 x 23, {size} bytes, {8 * size / (31 * 23):.3f} bpp\n"
    assert main(["info", "a.jxc", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["width"], record["height"], record["channels"]) == (31, 23, 3)
    assert record["bytes"] == size and record["icc_bytes"] == len(SRGB)
    assert size == record["container_bytes"] + sum(record["sections"].values())
    assert main(["info", "a.jxc"]) == 0
    assert "31 x 23, RGB" in capsys.readouterr().out
    assert main(["decompress", "a.jxc", "b.png", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["height"] == 23
    with Image.open("b.png") as decoded:
        np.testing.assert_array_equal(np.asarray(decoded), pixels)  # the toy at 100 is exact
        assert decoded.info["icc_profile"] == SRGB


def test_files_of_weights(capsys):
    size = jc.io.save_weights("w.jxc", {"a": np.arange(600, dtype=np.uint8), "b": 3})
    assert size == os.path.getsize("w.jxc")
    assert main(["info", "w.jxc", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["bytes"] == size and record["header"]["nbytes"] == 600
    assert main(["info", "w.jxc"]) == 0
    assert f"{size} bytes" in capsys.readouterr().out
