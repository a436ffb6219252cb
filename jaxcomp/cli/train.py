"""jaxcomp train: learn the weights of an image codec from a folder of photos."""

import argparse
import json
import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxcomp.base import UnsupportedInput
from jaxcomp.cli import common, train_begin, train_folder, train_hosts

EPILOG = """\
examples:
  jaxcomp train image --data photos/ --out run/                     train from nothing
  jaxcomp train image --data photos/ --out run/ --resume            go on where it stopped
  jaxcomp train image --data photos/ --out run/ --codec hyperprior --steps 200000 --crop 256
  jaxcomp train image --data scans/ --out fine/ --begin learned --steps 5000 \\
      --learning-rate 1e-4
                                       fine-tune what jaxcomp brings for photos of another kind
  jaxcomp train image --data scans/ --out fine/ --begin run/ --steps 5000 --learning-rate 1e-4
                                       fine-tune what run/ learned, with a schedule of its own
  jaxcomp train image --data photos/ --out run/ --precision float32
                                       on a GPU, as exact as on a CPU and slower
  jaxcomp train image --data photos/ --out run/ --batch 32 --hosts 10.0.0.1:8476 2 0
  jaxcomp train image --data photos/ --out run/ --batch 32 --hosts 10.0.0.1:8476 2 1
                                       the same run on two hosts, one line on each
  srun --ntasks 4 jaxcomp train image --data photos/ --out run/ --batch 32 --hosts auto

A run folder holds checkpoints/, settings.json, log.jsonl (one line per report: step, bpp, PSNR,
images/s), curve.png, and at the end weights.jxw. Crops, noise and order depend on --seed and the
number of the step alone, so a resumed run is the same run. All devices of all hosts share a batch;
hosts need the same photos and see the same run folder, where the first of them writes.
"""
LOG = "log.jsonl"
# What tables are counted from in the end.
SHEETS, SHEET = 40, 4


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
    parser.add_argument(
        "--begin",
        default="",
        metavar="WEIGHTS",
        help="begin with weights: the folder of another run, a file (.jxw), or learned, those that "
        "jaxcomp brings",
    )
    parser.add_argument("--steps", type=common.positive_int, default=50_000)
    parser.add_argument("--batch", type=common.positive_int, default=8, help="crops per step")
    parser.add_argument("--crop", type=common.positive_int, default=128, help="a multiple of 64")
    parser.add_argument("--learning-rate", type=common.positive_float, default=1e-3)
    parser.add_argument(
        "--still",
        default=train_folder.OPEN["still"],
        metavar="PARTS",
        help="what does not learn: of analysis, prior, synthesis, gain, side; with commas between, "
        "or '' for none; default %(default)s: gradients do not see rounding by rate, and what "
        "learned its analysis by them made files 2 %% larger",
    )
    parser.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="of products; all else is float32. auto: bfloat16 on accelerators, float32 on CPUs",
    )
    parser.add_argument("--seed", type=common.positive_int, default=1)
    parser.add_argument(
        "--every", type=common.positive_int, default=500, metavar="N", help="steps per report"
    )
    train_hosts.add(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Train to the last step, or go on to it."""
    import jax

    from jaxcomp.io.crops import PhotoFolder

    folder = Path(arguments.out)
    if arguments.crop % 64:
        raise UnsupportedInput(f"expected --crop to be a multiple of 64, got {arguments.crop}")
    photos = PhotoFolder(arguments.data)
    train_hosts.join(arguments.hosts)
    common.start_jax(flags="")  # hours of running: not what was measured
    if arguments.batch % (devices := jax.device_count()):
        raise UnsupportedInput(
            f"expected --batch to be a multiple of {devices} devices, got {arguments.batch}"
        )
    if arguments.begin and not arguments.resume:
        train_begin.check(arguments.begin, arguments.codec)
    train_folder.settle(folder, arguments, photos.paths)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: common.note(arguments.data, str(message))
        for record in _train(photos, folder, arguments):
            if train_hosts.is_first():
                print(_line(record, arguments.steps), flush=True)
    return 0


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
    mesh = jax.make_mesh(
        (jax.device_count(),), ("batch",), axis_types=(jax.sharding.AxisType.Auto,)
    )
    whole, split = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("batch",)))
    settled = {"precision": arguments.precision, "sharding": whole}
    step = training.make_step(codec, transform, arguments.seed, still=still, **settled)
    state = jax.device_put(state, whole)
    options = orbax.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=True)
    checkpoints = (folder / "checkpoints").absolute()
    with orbax.CheckpointManager(checkpoints, options=options) as manager:
        if (last := manager.latest_step()) is not None:
            shapes = jax.tree.map(orbax.utils.to_shape_dtype_struct, state)
            state = manager.restore(last, args=orbax.args.StandardRestore(shapes))
        elif arguments.begin:
            params = train_begin.parameters(arguments.begin, codec, state.params)
            state = training.begin(codec, transform, arguments.seed, params)
            state = jax.device_put(state, whole)
        yield from _steps(photos, folder, arguments, state, step, split, manager)


def _steps(photos, folder, arguments, state, step, split, manager):
    import jax

    from jaxcomp.codecs.files import find
    from jaxcomp.codecs.latent_calibration import calibrate
    from jaxcomp.codecs.weights import save_weights

    begun, sums, done = time.perf_counter(), None, int(state.step)
    for number in range(done, arguments.steps):
        state, measures = step(state, _batch(photos, arguments, number, split))
        sums = measures if sums is None else jax.tree.map(jax.numpy.add, sums, measures)
        if (number + 1) % arguments.every == 0 or number + 1 == arguments.steps:
            seconds, count = time.perf_counter() - begun, number + 1 - done
            record = {"step": number + 1, **{k: float(v) / count for k, v in sums.items()}}
            record["images_per_second"] = count * arguments.batch / seconds
            manager.save(number + 1, args=_saved(state))
            if train_hosts.is_first():
                with (folder / LOG).open("a") as log:
                    log.write(json.dumps(record) + "\n")
                _draw(folder)
            begun, sums, done = time.perf_counter(), None, number + 1
            yield record
    manager.wait_until_finished()
    if train_hosts.is_first():
        # Arrays of this host, which computes the rest alone.
        codec = find(arguments.codec)
        weights = jax.tree.map(jax.numpy.asarray, jax.device_get(state.average))
        params = calibrate(codec, weights, _sheets(photos, arguments))
        common.write(os.fspath(folder / "weights.jxw"), save_weights(codec, params))
    train_hosts.wait("weights")


def _batch(photos, arguments, number, split):
    """Batch `number`, split over the devices; every host makes the crops of its own."""
    import jax

    size, count = arguments.crop, arguments.batch

    def crops(index):
        return photos.batch(size, count, seed=arguments.seed, step=number, part=index[0])

    return jax.make_array_from_callback((count, size, size, 3), split, crops)


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
