"""The house rules that neither ruff nor import-linter can see."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Folders whose public names are methods, each with a row in the README.
METHOD_FOLDERS = (
    *("coding", "codecs", "entropy", "formats", "kvcache", "measures", "nets", "optim", "weights"),
)
LONGEST_FILE = 400


def _tracked(pattern: str = "**/*") -> list[Path]:
    """The files of the repository, or of a source archive, that match a glob."""
    if (ROOT / ".git").exists():
        listing = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        files = {ROOT / name for name in listing.split("\0") if name}
        return sorted(files & set(ROOT.glob(pattern)))
    return sorted(path for path in ROOT.glob(pattern) if path.is_file())


PACKAGE = _tracked("jaxcomp/**/*.py")
INITS = [path for path in PACKAGE if path.name == "__init__.py"]
PYTHON = [p for top in ("jaxcomp", "tests", "benchmarks") for p in _tracked(f"{top}/**/*.py")]


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _imported(tree: ast.AST) -> set[str]:
    """Every module or module member that a file imports, relative ones left out."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _public(init: Path) -> set[str]:
    """The names that an __init__ re-exports: `from ... import name as name`."""
    return {
        alias.name
        for node in ast.walk(ast.parse(init.read_text()))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    }


def test_the_globs_see_the_repository():
    assert len(PACKAGE) > 10 and len(INITS) > 3
    assert ROOT / "jaxcomp/base.py" in PACKAGE and Path(__file__) in PYTHON


def test_every_module_has_a_test_file_of_its_name():
    missing = []
    for path in PACKAGE:
        inside = path.relative_to(ROOT / "jaxcomp")
        twin = ROOT / "tests" / inside.parent / f"test_{inside.name}"
        if not inside.stem.startswith("_") and not twin.exists():
            missing.append(f"{_name(path)} needs {_name(twin)}")
    assert not missing, "\n".join(missing)


def test_files_stay_under_400_lines():
    lengths = {_name(path): len(path.read_text().splitlines()) for path in PYTHON}
    assert not {name: n for name, n in lengths.items() if n > LONGEST_FILE}


@pytest.mark.parametrize("path", PACKAGE, ids=_name)
def test_no_assert_pickle_or_evaluated_text(path):
    tree = ast.parse(path.read_text())
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    assert not {name.split(".")[0] for name in _imported(tree)} & {"pickle", "dill", "cloudpickle"}
    called = {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & {"eval", "exec", "compile"}
    allowed = [  # NumPy reads pickles only when asked to
        keyword.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "allow_pickle" and not _is_false(keyword.value)
    ]
    assert not allowed


def _is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def test_only_kernels_import_pallas():
    users = {
        path.relative_to(ROOT / "jaxcomp").parts[0]
        for path in PACKAGE
        if any("pallas" in name for name in _imported(ast.parse(path.read_text())))
    }
    assert users <= {"kernels"}


@pytest.mark.parametrize("init", INITS, ids=_name)
def test_inits_hold_nothing_but_re_exports(init):
    own = set()
    for node in ast.parse(init.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            own.add(node.name)
        elif isinstance(node, ast.Assign):
            own |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    assert not {name for name in own if not name.startswith("_")}


@pytest.mark.parametrize("init", INITS, ids=_name)
def test_every_re_exported_name_exists_at_run_time(init):
    module = importlib.import_module(".".join(init.parent.relative_to(ROOT).parts))
    for name in _public(init):
        assert getattr(module, name) is not None
        assert name in dir(module)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = module.no_such_name


@pytest.mark.parametrize(
    "module", ["jaxcomp", "jaxcomp.base", "jaxcomp.coding.container", "jaxcomp.cli.main"]
)
def test_judging_a_file_does_not_load_jax(module):
    heavy = {"jax", "jaxlib", "flax", "optax", "orbax", "scipy", "matplotlib"}
    code = f"import sys, {module}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert not {name.split(".")[0] for name in run.stdout.split()} & heavy


def test_readme_has_one_row_per_method():
    rows = re.findall(r"^\| `jc\..*", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    listed = [name for row in rows for name in re.findall(r"`jc\.(\w+\.\w+)", row.split("|")[1])]
    assert len(listed) == len(set(listed))
    methods = {
        f"{folder}.{name}"
        for folder in METHOD_FOLDERS
        for name in _public(ROOT / "jaxcomp" / folder / "__init__.py")
        if name.islower()
    }
    assert set(listed) == methods


def test_no_file_names_a_machine():
    folders = "work", "root", "farm", "tmp", "home"
    path = re.compile(r"(?<![\w.])/(?:" + "|".join(folders) + r")/\w")
    found = []
    for file in _tracked():
        if file.suffix not in (".png", ".jpg", ".jxc", ".npz", ".npy", ".bin"):
            text = file.read_text(encoding="utf-8", errors="replace")
            lines = enumerate(text.splitlines(), 1)
            found += [f"{_name(file)}:{n}: {line}" for n, line in lines if path.search(line)]
    assert not found, "\n".join(found)
