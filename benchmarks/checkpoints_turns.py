"""One measurement of benchmarks.checkpoints: contenders in turns, in memory, of files, in Orbax."""

import contextlib
import io
import json
import os
import statistics
import subprocess
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from safetensors.numpy import save_file

import jaxcomp as jc
from benchmarks import checkpoints_data as data
from benchmarks.checkpoints_report import OURS

SCRIPT = Path(__file__).parent / "peers/lossless_coders.py"
SLOW = "zstd -19"
SLOW_NBYTES = 8 << 20


class Peers:
    """The process of the peers, on the same cores."""

    def __init__(self, python):
        command = [str(python), str(SCRIPT)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(command, text=True, **pipes)
        said = json.loads(self._process.stdout.readline())
        self.codecs, self.versions = said["codecs"], said["versions"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.wait()

    def measure(self, **asked):
        self._process.stdin.write(json.dumps(asked, default=str) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the peers stopped at {asked}")
        return json.loads(line)


@contextlib.contextmanager
def on_cores(threads):
    """All threads of this process on one core, if one is asked for."""
    before = os.sched_getaffinity(0)

    def put(cores):
        for thread in os.listdir("/proc/self/task"):
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.sched_setaffinity(int(thread), cores)

    put({min(before)} if threads == 1 else before)
    try:
        yield
    finally:
        put(before)


def in_memory(arrays, threads, base=None):
    """One turn of ours: {encode, decode, nbytes, raw}. base: the bytes of a file."""
    with on_cores(threads):
        start = time.perf_counter()
        file = io.BytesIO()
        with contextlib.ExitStack() as stack:
            before = opened(base, threads, stack)
            jc.io.save_tensors(file, iter(arrays.items()), base=before, threads=threads)
        middle = time.perf_counter()
        with contextlib.ExitStack() as stack:
            options = {"base": opened(base, threads, stack), "threads": threads}
            found = stack.enter_context(jc.io.open_tensors(file, **options))
            back = list(found.arrays(found.rows))
        end = time.perf_counter()
    check(arrays, back)
    nbytes = len(file.getbuffer())
    return turn(start, middle, end, nbytes, sum(x.nbytes for x in back))


def opened(base, threads, stack):
    if base is None:
        return None
    return stack.enter_context(jc.io.open_tensors(io.BytesIO(base), threads=threads))


def of_files(source, target, threads):
    """The same from file to file."""
    back = f"{target}.out"
    with on_cores(threads):
        start = time.perf_counter()
        jc.io.compress_file(source, target, threads=threads)
        middle = time.perf_counter()
        jc.io.decompress_file(target, back, threads=threads)
        end = time.perf_counter()
    if Path(back).read_bytes() != Path(source).read_bytes():
        raise SystemExit("decompressing did not return the file")
    return turn(start, middle, end, os.path.getsize(target), os.path.getsize(source))


def turn(start, middle, end, nbytes, raw):
    return {"encode": middle - start, "decode": end - middle, "nbytes": nbytes, "raw": raw}


def check(arrays, back):
    same = (
        np.asarray(x).tobytes() == np.asarray(y).tobytes()
        for x, y in zip(arrays.values(), back, strict=True)
    )
    if not all(same):
        raise SystemExit("decoding did not return the arrays")


def cell(arrays, base, mode, threads, peers, folder, repeats):
    """{contender: {encode, decode, nbytes, raw, n}}, all in turns."""
    dtype = max(arrays.values(), key=lambda x: x.nbytes).dtype
    source, target = folder / "source.safetensors", folder / "target.jxc"
    known = {"threads": threads, "dtype": dtype.name, "itemsize": dtype.itemsize}
    turns = {}
    if mode == "files":
        save_file(arrays, source)
        turns[OURS] = lambda: of_files(source, target, threads)
    else:
        data.write_raw(source, arrays)
        saved = None
        if base is not None:
            data.write_raw(folder / "base", base)
            known["base"], file = folder / "base", io.BytesIO()
            jc.io.save_tensors(file, iter(base.items()))
            saved = file.getvalue()
        turns[OURS] = lambda: in_memory(arrays, threads, saved)
    for name in peers.codecs if peers else ():
        asked = {"codec": name, "source": source, **known}
        if name == SLOW:
            asked["limit"] = SLOW_NBYTES
        elif mode == "files":
            asked["target"] = folder / "peer"
        if name != SLOW or (mode == "memory" and threads > 1 and base is None):
            turns[name] = lambda asked=asked: peers.measure(**asked)
    found = {name: [] for name in turns}
    for i in range(repeats + 1):
        for name, run in turns.items():
            if i and not (name == SLOW and i > 1):
                found[name].append(run())
            elif not i and name != SLOW:
                run()
    for path in folder.iterdir():
        path.unlink()
    return {name: median(rows) for name, rows in found.items()}


def median(rows):
    times = {way: statistics.median(row[way] for row in rows) for way in ("encode", "decode")}
    return rows[0] | times | {"n": len(rows)}


def bound(arrays):
    """Bytes at order 0."""
    file = io.BytesIO()
    jc.io.save_tensors(file, iter(arrays.items()))
    with jc.io.open_tensors(file) as tensors:
        return sum(info.order0_nbytes for info in jc.io.array_infos(tensors))


def orbax_cell(arrays, folder, repeats):
    """Save and restore through Orbax, with our handler and as Orbax does: {who: row}."""
    state = {name.replace("/", "."): jnp.asarray(x) for name, x in arrays.items()}
    raw = sum(x.nbytes for x in state.values())
    handlers = {"Orbax + jaxcomp": jc.io.orbax_handler, "Orbax": ocp.PyTreeCheckpointHandler}
    found = {name: [] for name in handlers}
    restoring = ocp.checkpoint_utils.construct_restore_args(state)
    for i in range(repeats + 1):
        for name, handler in handlers.items():
            path = folder / f"{name}{i}".replace(" ", "")
            with ocp.Checkpointer(handler()) as checkpointer:
                start = time.perf_counter()
                checkpointer.save(path, args=ocp.args.PyTreeSave(state))
                middle = time.perf_counter()
                back = checkpointer.restore(
                    path, args=ocp.args.PyTreeRestore(state, restore_args=restoring)
                )
                jax.block_until_ready(back)
                end = time.perf_counter()
            check(
                {n: np.asarray(x) for n, x in state.items()}, list(map(np.asarray, back.values()))
            )
            files = [p.stat().st_size for p in path.rglob("*") if p.is_file()]
            if i:
                found[name].append(turn(start, middle, end, sum(files), raw))
    return {name: median(rows) for name, rows in found.items()}


def first_use():
    """Seconds of the first and the second call, each way, in this process: 4 MiB of each type."""
    rng, found = np.random.default_rng(0), {}
    for dtype in (data.BFLOAT16, np.dtype("float32")):
        x = rng.standard_normal((4 << 20) // dtype.itemsize, np.float32).astype(dtype)
        rows = [in_memory({"x": x}, 1) for _ in range(2)]
        for way in ("encode", "decode"):
            found[f"{dtype.name} {way}"] = [row[way] for row in rows]
    return found
