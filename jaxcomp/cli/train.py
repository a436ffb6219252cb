"""jaxcomp train: learn the weights of an image codec from a folder of photos."""

import argparse
import json
import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxcomp.base import JaxcompError, UnsupportedInput
from jaxcomp.cli import common

EPILOG = """\
examples:
  jaxcomp train image --data photos/ --out run/                     train from nothing
  jaxcomp train image --data photos/ --out run/ --resume            go on where it stopped
  jaxcomp train image --data photos/ --out run/ --codec hyperprior --steps 200000 --crop 256

A run folder holds checkpoints/, settings.json, log.jsonl (one line per report: step, bpp, PSNR,
images/s), curve.png, and at the end weights.jxw. Crops, noise and order depend on --seed and the
number of the step alone, so a resumed run is the same run. All devices of this host share a batch.
"""
LOG = "log.jsonl"
# What tables are counted from in the end.
SHEETS, SHEET = 40, 4
SETTINGS = ("codec", "steps", "batch", "crop", "learning_rate", "seed", "still")


def add(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    from jaxcomp.codecs.header import TRAINABLE

    parser.description = "Learn the weights of an image codec from the photos below a folder."
    parser.epilog = EPILOG
    parser.add_argument("kind", choices=("image",), help="what the codec is for")
    parser.add_argument("--data", required=True, metavar="DIR", help="photos, in any subfolders")
    parser.add_argument("--out", default="run", metavar="RUN", help="default %(default)s/")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument(
        "--codec",
        choices=sorted(TRAINABLE),
        default="channel_conditional",
        help="default %(default)s",
    )
    parser.add_argument("--steps", type=common.positive_int, default=50_000)
    parser.add_argument("--batch", type=common.positive_int, default=8, help="crops per step")
    parser.add_argument("--crop", type=common.positive_int, default=128, help="a multiple of 64")
    parser.add_argument("--learning-rate", type=common.positive_float, default=1e-3)
    parser.add_argument(
        "--still",
        default="",
        metavar="PARTS",
        help="what does not learn: of analysis, prior, synthesis, gain, side; with commas between",
    )
    parser.add_argument("--seed", type=common.positive_int, default=1)
    parser.add_argument(
        "--every", type=common.positive_int, default=500, metavar="N", help="steps per report"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Train to the last step, or go on to it."""
    from jaxcomp.io.crops import PhotoFolder

    folder = Path(arguments.out)
    _settle(folder, arguments)
    if arguments.crop % 64:
        raise UnsupportedInput(f"expected --crop to be a multiple of 64, got {arguments.crop}")
    photos = PhotoFolder(arguments.data)
    common.start_jax()
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: common.note(arguments.data, str(message))
        for record in _train(photos, folder, arguments):
            print(_line(record, arguments.steps), flush=True)
    return 0


def _settle(folder: Path, arguments: argparse.Namespace) -> None:
    """Make the run folder, or see that it is the same run."""
    path = folder / "settings.json"
    settings = {name: getattr(arguments, name) for name in SETTINGS}
    if not path.exists():
        if arguments.resume:
            raise JaxcompError(f"{folder}: no run to resume; leave --resume away to begin one")
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings, indent=1) + "\n")
        return
    if not arguments.resume:
        raise JaxcompError(f"{folder} holds a run; say --resume to go on, or name another --out")
    before = json.loads(path.read_text())
    changed = [name for name in SETTINGS if before.get(name) != settings[name]]
    if changed:
        shown = ", ".join(f"{name}={before.get(name)}" for name in changed)
        raise JaxcompError(f"{folder} was begun with {shown}; resume with the same settings")


def _train(photos: Any, folder: Path, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Reports of the steps from the last checkpoint to the end, which is saved as weights."""
    import jax
    import orbax.checkpoint as orbax
    from jax.sharding import NamedSharding, PartitionSpec

    from jaxcomp.codecs import training
    from jaxcomp.codecs.files import find

    codec = find(arguments.codec)
    transform = training.optimizer(arguments.learning_rate, arguments.steps)
    state = training.begin(codec, transform, arguments.seed)
    still = tuple(filter(None, arguments.still.split(",")))
    if unknown := set(still) - set(state.params):
        raise UnsupportedInput(
            f"expected --still to name some of {', '.join(sorted(state.params))}, got "
            f"{', '.join(sorted(unknown))}"
        )
    step = training.make_step(codec, transform, arguments.seed, still=still)
    devices = jax.device_count()
    if arguments.batch % devices:
        raise UnsupportedInput(
            f"expected --batch to be a multiple of {devices} devices, got {arguments.batch}"
        )
    mesh = jax.make_mesh((devices,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    whole, split = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("batch",)))
    state = jax.device_put(state, whole)
    options = orbax.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=True)
    checkpoints = (folder / "checkpoints").absolute()
    with orbax.CheckpointManager(checkpoints, options=options) as manager:
        if (last := manager.latest_step()) is not None:
            shapes = jax.tree.map(orbax.utils.to_shape_dtype_struct, state)
            state = manager.restore(last, args=orbax.args.StandardRestore(shapes))
        yield from _steps(photos, folder, arguments, state, step, split, manager)


def _steps(photos, folder, arguments, state, step, split, manager):
    import jax

    from jaxcomp.codecs.files import find
    from jaxcomp.codecs.latent_calibration import calibrate
    from jaxcomp.codecs.weights import save_weights

    begun, sums, done = time.perf_counter(), None, int(state.step)
    for number in range(done, arguments.steps):
        images = photos.batch(arguments.crop, arguments.batch, seed=arguments.seed, step=number)
        state, measures = step(state, jax.device_put(images, split))
        sums = measures if sums is None else jax.tree.map(jax.numpy.add, sums, measures)
        if (number + 1) % arguments.every == 0 or number + 1 == arguments.steps:
            seconds, count = time.perf_counter() - begun, number + 1 - done
            record = {"step": number + 1, **{k: float(v) / count for k, v in sums.items()}}
            record["images_per_second"] = count * arguments.batch / seconds
            manager.save(number + 1, args=_saved(state))
            with (folder / LOG).open("a") as log:
                log.write(json.dumps(record) + "\n")
            _draw(folder)
            begun, sums, done = time.perf_counter(), None, number + 1
            yield record
    manager.wait_until_finished()
    codec, weights = find(arguments.codec), jax.device_get(state.average)
    params = calibrate(codec, weights, _sheets(photos, arguments))
    common.write(os.fspath(folder / "weights.jxw"), save_weights(codec, params))


def _sheets(photos, arguments) -> Iterator[Any]:
    """Pictures of SHEET x SHEET crops, other ones than training saw: as large as photos are."""
    import numpy as np

    for number in range(SHEETS):
        crops = photos.batch(arguments.crop, SHEET**2, seed=arguments.seed + 1, step=number)
        rows = crops.reshape(SHEET, SHEET, *crops.shape[1:]).swapaxes(1, 2)
        side = SHEET * arguments.crop
        yield np.ascontiguousarray(rows).reshape(side, side, 3)


def _saved(state):
    import orbax.checkpoint as orbax

    return orbax.args.StandardSave(state)


def _line(record: dict[str, Any], steps: int) -> str:
    return (
        f"step {record['step']} of {steps}  {record['bpp']:.3f} bpp  {record['psnr_db']:.2f} dB  "
        f"loss {record['loss']:.3f}  {record['images_per_second']:.1f} images/s"
    )


def _draw(folder: Path) -> None:
    """curve.png of the log, where matplotlib is installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    records = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
    figure = Figure(figsize=(8, 4), layout="constrained")
    panels = figure.subplots(1, 3)
    for panel, name in zip(panels, ("loss", "bpp", "psnr_db"), strict=True):
        panel.plot([r["step"] for r in records], [r[name] for r in records])
        panel.set(xlabel="step", title=name.replace("_db", " (dB)"))
        panel.grid(alpha=0.3)
    figure.savefig(folder / "curve.png", dpi=100)
