"""The folder of a training run: its settings, which never change."""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxcomp.base import JaxcompError
from jaxcomp.cli import train_hosts

SETTINGS = (
    "codec",
    "steps",
    "batch",
    "crop",
    "learning_rate",
    "seed",
    "still",
    "begin",
    "precision",
)
SHIPPED = "learned"  # what a run begins with that begins with the weights of the package
# What a resumed run takes from its settings where it is not said again.
OPEN = {"begin": "", "precision": "auto", "still": "analysis,gain"}
# What runs did that were begun before this could be said.
BEFORE = {"still": "", "begin": "", "precision": "float32"}


def settle(folder: Path, arguments: argparse.Namespace, photos: Sequence[Path]) -> None:
    """Make the run folder, or see that it is the same run. Settles what arguments leave open.

    Raises JaxcompError on all hosts where the run cannot go on, or is another one on some host.
    """
    path = folder / "settings.json"
    before = path.read_text() if path.exists() else None
    if arguments.begin not in ("", SHIPPED):
        arguments.begin = os.path.abspath(arguments.begin)
    names = [str(photo.relative_to(arguments.data)) for photo in photos]
    asked = {name: getattr(arguments, name) for name in SETTINGS}
    train_hosts.agree(settings=asked, photos=names, run_folder=before)
    if before is None:
        if arguments.resume:
            raise JaxcompError(f"{folder}: no run to resume; leave --resume away to begin one")
        _make(path, arguments)
        return
    if not arguments.resume:
        raise JaxcompError(f"{folder} holds a run; say --resume to go on, or name another --out")
    settings = {**BEFORE, **parsed(path, before)}
    for name, left_open in OPEN.items():
        if asked[name] == left_open:
            setattr(arguments, name, settings[name])
    changed = [name for name in SETTINGS if settings.get(name) != getattr(arguments, name)]
    if changed:
        shown = ", ".join(f"{name}={settings.get(name)}" for name in changed)
        raise JaxcompError(f"{folder} was begun with {shown}; resume with the same settings")


def _make(path: Path, arguments: argparse.Namespace) -> None:
    from jaxcomp.codecs.training import usual_precision

    if arguments.precision == "auto":
        arguments.precision = usual_precision()
    if train_hosts.is_first():
        settings = {name: getattr(arguments, name) for name in SETTINGS}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings, indent=1) + "\n")
    train_hosts.wait("run folder")
    train_hosts.agree(run_folder=path.exists())


def parsed(path: Path, text: str) -> dict[str, Any]:
    """The settings in a file of a run. Raises JaxcompError for other text."""
    try:
        settings = json.loads(text)
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        raise JaxcompError(f"{path}: expected the settings of a run, got {text[:40]!r}")
    return settings
