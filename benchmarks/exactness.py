"""Does the learned codec decode to the same image everywhere? Files decoded in many settings.

    python benchmarks/exactness.py [--out FILE.json] [FILE.jxc ...]

Files are by default those of tests/golden by the weights that ship. Each setting is a process of
its own: flags of XLA and jax, several images at once, several devices. Of every file the SHA-256 of
the decoded samples is taken; a setting is exact if all are those of the first setting. A device
that is not here makes its setting "not run". Exits with 1 if any setting that ran is not exact.
"""

import argparse
import datetime
import hashlib
import json
import os
import platform
import subprocess
import sys
import unittest.mock
from pathlib import Path

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests/golden"
FAST = "--xla_cpu_enable_fast_math=true --xla_cpu_enable_fast_min_max=true"
# name: (images at once; 0 is one without jit, XLA_FLAGS, other variables)
SETTINGS = {
    "jit, one image": (1, "", {}),
    "without jit": (0, "", {}),
    "four images at once": (4, "", {}),
    "eight images on eight devices": (8, "--xla_force_host_platform_device_count=8", {}),
    "fast math": (1, FAST, {}),
    "older fusion emitters": (1, "--xla_cpu_use_fusion_emitters=false", {}),  # of jax < 0.11
    "matmul precision bfloat16": (1, "", {"JAX_DEFAULT_MATMUL_PRECISION": "bfloat16"}),
    "matmul precision float32": (1, "", {"JAX_DEFAULT_MATMUL_PRECISION": "float32"}),
    "one thread": (1, "--xla_cpu_multi_thread_eigen=false", {}),
    "64-bit types": (1, "", {"JAX_ENABLE_X64": "1"}),
    "GPU": (1, "", {"JAX_PLATFORMS": "cuda"}),
}


def shipped() -> list[Path]:
    """Golden files of the weights that ship: those of others have them beside."""
    files = GOLDEN.glob("learned*.jxc")
    return [path for path in files if not (GOLDEN / f"{path.name[:10]}.jxw").exists()]


def together(program, batched: tuple[int, ...], count: int):
    """The program on `count` copies of its batched arguments at once, spread over all devices.

    Returns the last result, once all are found to be the same.
    """
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    devices = jax.devices()[: count if jax.device_count() >= count else 1]
    mesh = Mesh(np.array(devices), ("copies",))
    spread = NamedSharding(mesh, PartitionSpec("copies"))

    def run(*arguments):
        def one(*copies):
            full = list(arguments)
            for place, copy in zip(batched, copies, strict=True):
                full[place] = copy
            return program(*full)

        copies = jax.tree.map(
            lambda x: jax.device_put(np.stack([np.asarray(x)] * count), spread),
            [arguments[place] for place in batched],
        )
        found = jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(*copies))
        for leaf in jax.tree.leaves(found):
            if (leaf != leaf[:1]).any():
                raise SystemExit("copies of one image were decoded differently")
        return jax.tree.map(lambda x: x[-1], found)

    return run


def child(count: int, paths: list[str]) -> None:
    """Decode the files, `count` copies of each at once, and print a hash of each."""
    import jax
    import numpy as np

    from jaxcomp.codecs import files, latent_coding, latent_stream
    from jaxcomp.codecs.learned import learned

    read, paint = latent_stream._read, latent_coding._paint
    if count > 1:
        read, paint = together(read, (3, 4), count), together(paint, (3, 5), count)
    learned().init()  # weights are unpacked by the same coder, and are a hundred times the symbols
    patch = unittest.mock.patch.object
    with (
        patch(latent_stream, "_read", read),
        patch(latent_coding, "_paint", paint),
        jax.disable_jit(not count),
    ):
        for path in paths:
            image = np.ascontiguousarray(files.load(Path(path).read_bytes()))
            print(hashlib.sha256(image).hexdigest(), flush=True)


def hashes(count: int, flags: str, variables: dict[str, str], paths: list[str]) -> list[str]:
    """Those of a child process; none if it failed."""
    command = [sys.executable, __file__, "--child", str(count), *paths]
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"} | variables
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    if ran.returncode:
        print(ran.stderr.strip().splitlines()[-1:], file=sys.stderr)
        return []
    return ran.stdout.split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", default=sorted(map(str, shipped())))
    parser.add_argument("--out", type=Path, help="where results go as JSON")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        return child(arguments.child, arguments.files)
    import jax

    first, rows = None, {}
    sizes = [Path(path).stat().st_size for path in arguments.files]
    smallest = sizes.index(min(sizes))
    for name, setting in SETTINGS.items():
        # Operation by operation the coder takes minutes: the smallest file will do.
        some = slice(None) if setting[0] else slice(smallest, smallest + 1)
        found = hashes(*setting, arguments.files[some])
        first = found if first is None else first
        rows[name] = "not run" if not found else "exact" if found == first[some] else "DIFFERS"
        print(f"{name:32} {rows[name]}", flush=True)
    record = {
        "date": datetime.date.today().isoformat(),
        "device": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "versions": {"jax": jax.__version__, "python": platform.python_version()},
        "files": {Path(p).name: h for p, h in zip(arguments.files, first, strict=True)},
        "settings": rows,
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    raise SystemExit("DIFFERS" in rows.values())


if __name__ == "__main__":
    main()
