"""Packages of lazy names: a name is what its file defines, whichever is asked for first."""

import importlib
import sys
from types import ModuleType

import pytest

INIT = """from jaxcomp.lazy import load_on_use
load_on_use(__name__, {"dog": ("dog", "bark"), "cat": ()})
"""


@pytest.fixture
def pets(tmp_path, monkeypatch):
    folder = tmp_path / "pets"
    folder.mkdir()
    (folder / "__init__.py").write_text(INIT)
    (folder / "dog.py").write_text("def dog(): return 1\ndef bark(): return 2\n")
    (folder / "cat.py").write_text("def purr(): return 3\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("pets")
    for name in [name for name in sys.modules if name.split(".")[0] == "pets"]:
        del sys.modules[name]


def test_names_load_on_use(pets):
    assert not [name for name in sys.modules if name.startswith("pets.")]
    assert {"dog", "bark", "cat"} <= set(dir(pets))
    assert pets.bark() == 2 and pets.cat.purr() == 3


def test_a_function_is_not_hidden_by_its_file(pets):
    file = importlib.import_module("pets.dog")
    assert isinstance(file, ModuleType) and pets.dog is file.dog and pets.dog() == 1


def test_a_name_can_be_replaced(pets):
    pets.dog = 5  # as monkeypatch does
    assert pets.dog == 5


def test_other_names_are_refused(pets):
    with pytest.raises(AttributeError, match="'pets' has no attribute 'cow'"):
        _ = pets.cow
