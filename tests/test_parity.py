"""docs/parity.md answers every public name of tensorflow-compression, with tests that exist."""

import ast
import re
from pathlib import Path

import jaxcomp as jc

ROOT = Path(__file__).parent.parent
TABLE = (ROOT / "docs" / "parity.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in TABLE.splitlines()
    if line.startswith("| ") and not line.startswith("| tensorflow-compression |")
]


def test_every_public_name_has_one_row():
    names = (ROOT / "tests" / "oracle" / "tfc_public_names.txt").read_text().split()
    answered = [name for row in ROWS for name in re.findall(r"^`(\w+)`", row[0])]
    assert len(names) > 50 and sorted(answered) == sorted(names)


def test_every_row_names_a_test_that_exists_or_why_there_is_none():
    missing = []
    for row in ROWS:
        assert len(row) == 4, row
        name, ours, test, _ = row
        if not test:
            assert "left out" in ours, f"{name} has neither a test nor a reason"
            continue
        path, _, function = test.strip("`").partition("::")
        body = ast.parse((ROOT / path).read_text()).body if (ROOT / path).is_file() else []
        if function not in {node.name for node in body if isinstance(node, ast.FunctionDef)}:
            missing.append(f"{name}: {test}")
    assert not missing, "\n".join(missing)


def test_every_name_of_ours_exists():
    names = re.findall(r"`jc\.(\w+(?:\.\w+)*)`", TABLE)
    assert len(names) > 40
    for name in names:
        found = jc
        for part in name.split("."):
            found = getattr(found, part)
