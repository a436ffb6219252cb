"""What a training run begins with, if not with nothing: another run, or weights in a file."""

import importlib.resources
from pathlib import Path
from typing import Any

from jaxcomp.base import Codec, JaxcompError
from jaxcomp.cli.train_folder import SHIPPED, parsed


def check(begin: str, codec: str) -> None:
    """See that a run or weights are of the codec of this name, before anything is made of them."""
    found = _run_codec(Path(begin)) if _is_run(begin) else _weights_codec(begin)
    if found != codec:
        raise JaxcompError(
            f"--begin {begin}: expected what was trained for {codec}, got one of {found}; "
            f"say --codec {found}"
        )
    if _is_run(begin):
        _last(Path(begin))


def parameters(begin: str, codec: Codec, like: Any) -> Any:
    """What training begins with; like has the structure and shapes of the codec's parameters."""
    return averaged(Path(begin), like) if _is_run(begin) else _thawed(begin, codec)


def _is_run(begin):
    return begin != SHIPPED and not Path(begin).is_file()


def _run_codec(run):
    path = run / "settings.json"
    if not path.exists():
        raise JaxcompError(
            f"--begin {run}: expected the folder of a run, with settings.json in it, a file of "
            f"weights (.jxw), or {SHIPPED}"
        )
    return parsed(path, path.read_text()).get("codec")


def _weights(begin):
    shipped = importlib.resources.files("jaxcomp.codecs") / "learned.jxw"
    return (shipped if begin == SHIPPED else Path(begin)).read_bytes()


def _weights_codec(begin):
    from jaxcomp.codecs.weights import KIND
    from jaxcomp.coding.container import unpack

    container = unpack(_weights(begin))
    if container.codec != KIND:
        raise JaxcompError(f"--begin {begin}: expected a file of weights, got a photo of jaxcomp")
    return container.header.get("codec_name")


def _thawed(begin, codec):
    from jaxcomp.codecs.latent_thaw import thaw
    from jaxcomp.codecs.weights import load_weights

    stored, frozen = load_weights(_weights(begin))
    ours, theirs = codec.init.args[0]._asdict(), stored.init.args[0]._asdict()
    if different := sorted(name for name in ours if ours[name] != theirs[name]):
        name = different[0]
        raise JaxcompError(
            f"--begin {begin}: expected weights for {name}={ours[name]}, got {theirs[name]}; "
            "they are of another version of the codec"
        )
    return thaw(stored.init.args[0], frozen)


def _last(run):
    """The folder of the last checkpoint. Those not complete have names that are no numbers."""
    found = [path for path in (run / "checkpoints").glob("*") if path.name.isdecimal()]
    if not found:
        raise JaxcompError(f"--begin {run}: expected a checkpoint, found none; let it train on")
    return max(found, key=lambda path: int(path.name)).absolute() / "default"


def averaged(run: Path, like: Any) -> Any:
    """The averaged parameters of a run's last checkpoint, which must have the shapes of like."""
    import jax
    import orbax.checkpoint as orbax

    shapes = {"average": jax.tree.map(orbax.utils.to_shape_dtype_struct, like)}
    path = _last(run)
    with orbax.Checkpointer(orbax.PyTreeCheckpointHandler()) as reader:
        found = _shapes(reader.metadata(path).item_metadata.tree["average"])
        wanted = _shapes(like)
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
