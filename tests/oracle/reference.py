"""The reference numbers of tensorflow-compression, by case."""

from pathlib import Path

import numpy as np


def load(name: str) -> dict[str, dict[str, np.ndarray]]:
    """name: strings, models, operators or layers -> {case: {what: array}}, case "" without one."""
    cases: dict[str, dict[str, np.ndarray]] = {}
    with np.load(Path(__file__).parent / f"tfc_{name}.npz") as file:
        for key in file.files:
            case, _, what = key.rpartition("/")
            cases.setdefault(case, {})[what] = file[key]
    return cases
