"""What is packed of files and folders, and which names never are."""

import os

import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.io.model_survey import is_inside, survey


def test_folders_are_walked_in_order_with_links_to_files(tmp_path):
    os.makedirs(tmp_path / "b" / "empty")
    for name in ("z.npy", "b/a.npy"):
        np.save(tmp_path / name, np.arange(3))
    (tmp_path / "config.json").write_text("{}")
    os.symlink(tmp_path / "z.npy", tmp_path / "link.npy")  # as the cache of Hugging Face has them
    kind, files, empty, unread = survey(str(tmp_path))
    assert kind == "folder" and empty == ["b/empty"] and not unread
    assert [path for path, *_ in files] == ["config.json", "link.npy", "z.npy", "b/a.npy"]
    assert files[3][2][1].name == "b/a"


def test_what_cannot_come_back_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(3))
    os.symlink(tmp_path, tmp_path / "loop")
    with pytest.raises(jc.UnsupportedInput, match="a link to a folder"):
        survey(str(tmp_path))
    os.unlink(tmp_path / "loop")
    (tmp_path / "a:b").write_text("")
    with pytest.raises(jc.UnsupportedInput, match="names without"):
        survey(str(tmp_path))
    os.unlink(tmp_path / "a:b")
    os.makedirs(tmp_path / "none")
    with pytest.raises(jc.UnsupportedInput, match="found none"):
        survey(str(tmp_path / "none"))
    with pytest.raises(jc.UnsupportedInput, match="a file of arrays"):
        survey(str(tmp_path / "x.bin"))


def test_paths_of_archives_stay_inside():
    assert all(map(is_inside, ("a", "a/b.c", "a b/..c", "\u00e4")))
    bad = (
        "",
        "/a",
        "a/",
        "a//b",
        "..",
        "a/../b",
        "./a",
        "c:/a",
        "a\\b",
        "a\0",
        "x" * 5000,
        3,
        None,
    )
    assert not any(map(is_inside, bad))
