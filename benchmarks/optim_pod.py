"""One data-parallel step of a transformer of a billion parameters, compiled for a pod on a CPU.

    python -m benchmarks.optim_pod [--pods v5e v5p] [--only top_k ...]
                                   [--out benchmarks/results/optim_pod.json]

Needs the environment of `make test-aot` (libtpu); no TPU. Each row is compiled by the TPU's own
compiler for all chips of a pod: v5e 16x16, 256 chips that are one axis of senders; v5p 8x8x8, 512
chips as two slices of 256, where only what is between slices is compressed. Of the program:

    bytes     that one chip sends in a step, ring algorithms, per axis: jc.optim.traffic of the
              traced step. Kinds and dtypes of collectives of the compiled program, with the bytes
              of their results, are stored beside it
    memory    of one chip: arguments (parameters, state, batch), and the most alive at once
    links     seconds that those bytes take, no other work beside them; what goes over two axes at
              once, as psum over all chips, at the speed of the slower: dense_mean is its peer there
    estimate  the compiler's own for the step (optimal_seconds), stored as it is; below 0 for
              programs with loops over layers, of which it says nothing

Parameters and gradients are bfloat16, under scan and remat, memories float32; 2 sequences of 1,024
tokens on a chip; SGD with momentum behind the exchange, which takes stacked layers one by one.
Nothing runs. What a chip can send at most is half of what the makers' pages give for both ways: 100
GB/s of a v5e's 1,600 Gbit/s, 600 GB/s of a v5p's 1,200 GB/s; and 6.25 GB/s a chip between slices of
v5p (50 Gbit/s; cloud.google.com/tpu/docs/v5e and v5p). A row that is in the file is not made again.
"""

import argparse
import json
import os
import re
import time
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # there is no metadata server to ask
os.environ.setdefault("TPU_LIBRARY_PATH", __import__("libtpu").get_library_path())

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from rich.console import Console
from rich.table import Table

import jaxcomp as jc
from benchmarks.machine import machine

console = Console(width=140)
WIDTH, LAYERS, HEADS, HIDDEN, WORDS = 2048, 19, 16, 8192, 32768
SEQUENCES, TOKENS = 2, 1024  # on each chip
PODS = {  # topology, axes, GB/s of a chip along each
    "v5e": ("v5e:16x16", {"chips": 256}, {"chips": 100.0}),
    "v5p": ("v5p:8x8x8", {"slices": 2, "chips": 256}, {"slices": 6.25, "chips": 600.0}),
}


def shapes():
    """The parameters, layers stacked: 1.02 billion of them."""

    def leaf(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.bfloat16)

    return {
        "words": leaf(WORDS, WIDTH),
        "layers": {
            "attention": leaf(LAYERS, WIDTH, 3 * WIDTH),
            "out": leaf(LAYERS, WIDTH, WIDTH),
            "up": leaf(LAYERS, WIDTH, HIDDEN),
            "down": leaf(LAYERS, HIDDEN, WIDTH),
            "norms": leaf(LAYERS, 2, WIDTH),
        },
        "norm": leaf(WIDTH),
    }


def loss(params, tokens):
    """Mean cross-entropy of the next token; tokens i32[sequences, tokens + 1]."""
    x = params["words"][tokens[:, :-1]]

    def norm(x, scale):
        wide = x.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + 1e-6)
        return wide.astype(x.dtype) * scale

    @jax.checkpoint
    def layer(x, p):
        q, k, v = jnp.split(norm(x, p["norms"][0]) @ p["attention"], 3, -1)
        q, k, v = (y.reshape(*y.shape[:2], HEADS, -1) for y in (q, k, v))
        y = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        x = x + y.reshape(x.shape) @ p["out"]
        return x + jax.nn.gelu(norm(x, p["norms"][1]) @ p["up"]) @ p["down"], None

    x, _ = jax.lax.scan(layer, x, params["layers"])
    logits = norm(x, params["norm"]) @ params["words"].T
    return optax.softmax_cross_entropy_with_integer_labels(
        logits.astype(jnp.float32), tokens[:, 1:]
    ).mean()


def rows(pod):
    """label -> transformation; the exchange of what is compressed on that pod."""
    optim, formats = jc.optim, jc.formats

    def layers(path, leaf):
        return leaf.ndim == 3  # stacked for the scan: one after the other, in the room of one

    def across(make):  # a method over "chips", or between slices with the chips dense
        if pod == "v5e":
            return make("chips")
        return optim.hierarchical(make("slices"), inner="chips")

    def behind(transform):
        return optax.chain(transform, optax.sgd(1e-3, momentum=0.9))

    def gathered(compressor):
        return across(lambda axis: optim.gathered(compressor, axis))

    def halves(compressor):
        return across(lambda axis: optim.compressed_mean(compressor, axis))

    def feedback(exchange):
        return optim.error_feedback(exchange, layers=layers)

    axes = tuple(PODS[pod][1])
    found = {
        "psum": behind(optax.stateless(lambda g, _: jax.lax.pmean(g, axes))),
        "dense_mean": behind(optim.compressed(across(optim.dense_mean), layers=layers)),
        "int8": behind(feedback(halves(optim.quantized(formats.INT8)))),
        "int4": behind(feedback(halves(optim.quantized(formats.INT4)))),
        "sign": behind(feedback(halves(optim.sign()))),
        "random_k 1 %": behind(feedback(gathered(optim.random_k(0.01, unbiased=False)))),
        "top_k 0.1 %": behind(feedback(gathered(optim.top_k(0.001, recall=0.95)))),
    }
    if hasattr(optim, "power_sgd"):
        found["power_sgd 4"] = behind(feedback(optim.power_sgd(4, axes)))
    return found


def compile_row(pod, transform):
    """The figures of one row."""
    description, axes, speeds = PODS[pod]
    devices = topologies.get_topology_desc(description, platform="tpu").devices
    mesh = Mesh(np.array(devices).reshape(tuple(axes.values())), tuple(axes))
    names = tuple(axes)

    def step(params, state, tokens):
        value, gradients = jax.value_and_grad(loss)(params, tokens)
        updates, state = transform.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    whole = NamedSharding(mesh, PartitionSpec())
    params = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), shapes()
    )
    state = jc.optim.shapes(transform, shapes(), mesh, names)
    tokens = jax.ShapeDtypeStruct(
        (SEQUENCES * len(devices), TOKENS + 1),
        jnp.int32,
        sharding=NamedSharding(mesh, PartitionSpec(names)),
    )
    run = jc.optim.on_senders(step, mesh, names)
    began = time.perf_counter()
    traced = jax.jit(run, donate_argnums=(0, 1)).trace(params, state, tokens)
    row = {"parameters": sum(x.size for x in jax.tree.leaves(shapes()))}
    found = jc.optim.traffic(run, params, state, tokens)
    row["links"] = [link._asdict() for link in found.links]
    row["links_s"] = sum(
        link.nbytes / (min(speeds[axis] for axis in link.axes) * 1e9) for link in found.links
    )
    try:
        compiled = traced.lower(lowering_platforms=("tpu",)).compile()
    except jax.errors.JaxRuntimeError as error:
        console.print(str(error)[:4000])
        return row | {"refused": str(error).splitlines()[0][:300]}
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    return row | {
        "compile_s": round(time.perf_counter() - began, 1),
        "argument_nbytes": memory.argument_size_in_bytes,
        "peak_nbytes": memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes,
        "optimal_s": cost.get("optimal_seconds"),
        "flops": cost.get("flops"),
        "collectives": collectives(compiled.as_text()),
    }


def collectives(text):
    """{"kind dtype": bytes of what they put out on a chip} of a compiled program."""
    found = {}
    kinds = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute"
    for line in text.splitlines():
        match = re.search(rf"= (.*?) ({kinds})(-start)?\(", line)
        if not match:
            continue
        results = re.findall(r"([a-z]+[0-9]+)\[([0-9,]*)\]", match[1])
        for dtype, shape in results[-1:] if match[3] else results:
            size = int(np.prod([int(n) for n in shape.split(",") if n], dtype=np.int64))
            bits = int(re.sub(r"\D", "", dtype))
            key = f"{match[2]} {dtype}"
            found[key] = found.get(key, 0) + size * bits // 8
    return found


def show(results):
    """One table for each pod."""
    for pod in PODS:
        table = Table(title=f"{PODS[pod][0]}, one step of 1.02 billion parameters")
        axes = list(PODS[pod][1])
        for name in ("method", *(f"MB over {axis}" for axis in axes), "links s", "GB held", "peak"):
            table.add_column(name, justify="left" if name == "method" else "right")
        for label, row in results.get(pod, {}).items():
            sent = [
                sum(link["nbytes"] for link in row["links"] if axis in link["axes"]) / 1e6
                for axis in axes
            ]
            held = [row.get(key) for key in ("argument_nbytes", "peak_nbytes")]
            table.add_row(
                label,
                *(f"{each:.1f}" for each in sent),
                f"{row['links_s']:.3f}",
                *("refused" if each is None else f"{each / 1e9:.2f}" for each in held),
            )
        console.print(table)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pods", nargs="+", default=list(PODS), choices=list(PODS))
    parser.add_argument("--only", nargs="+", help="rows, by label")
    parser.add_argument("--out", type=Path, help="results, row by row; rows that it has are kept")
    arguments = parser.parse_args()
    results = {}
    if arguments.out and arguments.out.exists():
        results = json.loads(arguments.out.read_text())
    for pod in arguments.pods:
        for label, transform in rows(pod).items():
            if arguments.only and label not in arguments.only:
                continue
            if label in results.get(pod, {}):
                continue
            results.setdefault(pod, {})[label] = {**machine(), **compile_row(pod, transform)}
            console.print(pod, label, results[pod][label])
            if arguments.out:
                fresh = arguments.out.with_suffix(".new")
                fresh.write_text(json.dumps(results, indent=1) + "\n")
                os.replace(fresh, arguments.out)
    show(results)


if __name__ == "__main__":
    main()
