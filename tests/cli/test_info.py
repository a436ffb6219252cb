"""info: what a file holds, for people and for machines."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

import jaxcomp as jc
from jaxcomp.cli.main import main
from jaxcomp.coding import container

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


def test_files_of_keys_and_values(capsys):
    golden = Path(__file__).parent.parent / "golden" / "cachegen_v1.jxc"
    assert main(["info", str(golden), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    said = [record[name] for name in ("layers", "tokens", "heads", "size", "dtype", "chunk")]
    assert said == [2, 50, 3, 2, "float32", 20] and len(record["chunk_bytes"]) == 3
    size = record["container_bytes"] + record["model_bytes"] + sum(record["chunk_bytes"])
    assert size == record["bytes"] == os.path.getsize(golden)
    assert record["bits_per_number"] == 8 * size / (2 * 2 * 50 * 6)
    assert main(["info", str(golden)]) == 0
    said = capsys.readouterr().out
    assert "50, in 3 chunks of 20" in said and "2 layers, 3 heads of 2, float32" in said
    file = container.read(golden)
    with open("false.jxc", "wb") as false:
        false.write(container.pack(file.codec, {**file.header, "shape": [2, 9]}, file.sections))
    assert main(["info", "false.jxc"]) == 2
    assert "false.jxc: expected shape, chunk and dtype" in capsys.readouterr().err
