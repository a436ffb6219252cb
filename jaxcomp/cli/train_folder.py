"""The folder of a training run: its settings, which never change, and the run it began with."""

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
# What a resumed run takes from its settings where it is not said again.
OPEN = {"begin": "", "precision": "auto"}
# What runs did that were begun before this could be said.
BEFORE = {"still": "", "begin": "", "precision": "float32"}


def settle(folder: Path, arguments: argparse.Namespace, photos: Sequence[Path]) -> None:
    """Make the run folder, or see that it is the same run. Settles what arguments leave open.

    Raises JaxcompError on all hosts where the run cannot go on, or is another one on some host.
    """
    path = folder / "settings.json"
    before = path.read_text() if path.exists() else None
    if arguments.begin:
        arguments.begin = os.path.abspath(arguments.begin)
    names = [str(photo.relative_to(arguments.data)) for photo in photos]
    asked = {name: getattr(arguments, name) for name in SETTINGS}
    train_hosts.agree(settings=asked, photos=names, run_folder=before)
    if before is None:
        if arguments.resume:
            raise JaxcompError(f"{folder}: no run to resume; leave --resume away to begin one")
        _check_begin(arguments)
        _make(path, arguments)
        return
    if not arguments.resume:
        raise JaxcompError(f"{folder} holds a run; say --resume to go on, or name another --out")
    settings = {**BEFORE, **_parsed(path, before)}
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


def _parsed(path: Path, text: str) -> dict[str, Any]:
    try:
        settings = json.loads(text)
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        raise JaxcompError(f"{path}: expected the settings of a run, got {text[:40]!r}")
    return settings


def _check_begin(arguments: argparse.Namespace) -> None:
    """See that the run to begin with is one of this codec, with a checkpoint."""
    if not arguments.begin:
        return
    run = Path(arguments.begin)
    path = run / "settings.json"
    if not path.exists():
        raise JaxcompError(f"--begin {run}: expected the folder of a run, with settings.json in it")
    codec = _parsed(path, path.read_text()).get("codec")
    if codec != arguments.codec:
        raise JaxcompError(
            f"--begin {run}: expected a run of {arguments.codec}, got one of {codec}; "
            f"say --codec {codec}"
        )
    _last(run)


def _last(run):
    """The folder of the last checkpoint. Those not complete have names that are no numbers."""
    found = [path for path in (run / "checkpoints").glob("*") if path.name.isdecimal()]
    if not found:
        raise JaxcompError(f"--begin {run}: expected a checkpoint, found none; let it train on")
    return max(found, key=lambda path: int(path.name)).absolute() / "default"


def averaged(run: Path, params: Any) -> Any:
    """The averaged parameters of a run's last checkpoint, which must have the shapes of params."""
    import jax
    import orbax.checkpoint as orbax

    shapes = {"average": jax.tree.map(orbax.utils.to_shape_dtype_struct, params)}
    path = _last(run)
    with orbax.Checkpointer(orbax.PyTreeCheckpointHandler()) as reader:
        found = _shapes(reader.metadata(path).item_metadata.tree["average"])
        wanted = _shapes(params)
        if different := sorted(k for k in found | wanted if found.get(k) != wanted.get(k)):
            name = different[0]
            raise JaxcompError(
                f"--begin {run}: expected {name} to be {wanted.get(name)}, got {found.get(name)}; "
                "the run is of another version of the codec"
            )
        each = orbax.checkpoint_utils.construct_restore_args(shapes)
        part = orbax.args.PyTreeRestore(shapes, restore_args=each, partial_restore=True)
        return reader.restore(path, args=part)["average"]


def _shapes(tree):
    import jax

    paths = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): x.shape for path, x in paths}
