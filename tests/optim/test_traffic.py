"""What tracing finds is what exchanges say, and what the compiled program does."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from jaxcomp import UnsupportedInput, optim
from jaxcomp.formats import INT4, INT8
from jaxcomp.optim.traffic import Link

EXCHANGES = [
    optim.gathered(optim.top_k(0.05), "data"),
    optim.compressed_mean(optim.quantized(INT8), "data", second=optim.sign(block=64)),
    optim.power_sgd(2, "data"),
    optim.dense_mean("data"),
    optim.hierarchical(optim.compressed_mean(optim.quantized(INT4), "data"), inner="chips"),
    optim.power_sgd(1, ("data", "chips")),
]


def one_mean(exchange, x):
    return exchange.mean(jnp.zeros(2, jnp.uint32), x, exchange.init(x))[1]


@pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda exchange: exchange.name)
def test_it_finds_what_exchanges_say_for_any_number_of_senders(exchange):
    for senders in (8, 512):
        said = []

        def run(x, said=said):
            said.append(exchange.nbytes(x))
            return one_mean(exchange, x)

        x = jax.ShapeDtypeStruct((33, 61), jnp.bfloat16)
        found = optim.traffic(run, x, axes={"data": senders, "chips": 4})
        assert found.nbytes == said[0] > 0 and not found.largest_branch


def test_and_what_the_compiled_program_moves():
    mesh = Mesh(np.array(jax.devices()), ("data",))
    exchanges = EXCHANGES[:3]

    def run(x):
        return [one_mean(exchange, x[0])[None] for exchange in exchanges]

    along = PartitionSpec("data")
    run = jax.shard_map(run, mesh=mesh, in_specs=along, out_specs=along, check_vma=False)
    x = jax.ShapeDtypeStruct((8, 32, 64), jnp.float32)
    compiled = jax.jit(run).lower(x).compile().as_text()
    moved = {}  # eight sevenths of it
    for line in compiled.splitlines():
        kind = re.search(r" (all-reduce|all-gather|all-to-all)(?:-start)?\(", line)
        if kind is None:
            continue
        # What comes out: of an all-gather all parts, of the others as much as went in.
        for name, shape in re.findall(r"(\w+)\[([\d,]*)\]", line[: kind.start()]):
            size = math.prod(map(int, shape.split(","))) * int(re.sub(r"\D", "", name)) // 8
            twice = 2 if kind[1] == "all-reduce" else 1
            moved[kind[1], name] = moved.get((kind[1], name), 0) + twice * size
    short = {"float32": "f32", "uint8": "u8", "int8": "s8", "bfloat16": "f32"}
    expected = {}
    for link in optim.traffic(run, x).links:
        key = (link.kind, short[link.dtype])  # scales in bfloat16 are widened, on a CPU
        nbytes = link.nbytes * (2 if link.dtype == "bfloat16" else 1)
        expected[key] = expected.get(key, 0) + nbytes
    assert {key: 7 * nbytes / 8 for key, nbytes in moved.items()} == expected
    assert ("all-to-all", "s8") in moved and ("all-gather", "u8") in moved


def test_loops_branches_and_every_collective():
    def run(x):
        a = lax.scan(lambda c, _: (lax.psum(c, "data"), None), x, None, 5)[0]
        loop = functools.partial(lax.while_loop, lambda c: c.sum() < 3)
        b = loop(lambda c: lax.pmax(c, ("data", "chips")), x)
        c = lax.cond(x[0] > 0, lambda x: lax.ppermute(x, "chips", [(0, 1)]), lambda x: x, x)
        d = jax.jit(jax.checkpoint(lambda x: lax.psum_scatter(x, "data", tiled=True)))(x)
        return a, b, c, d

    found = optim.traffic(run, jnp.zeros(16), axes={"data": 4, "chips": 2})
    assert found == (
        (
            Link(("chips",), "collective-permute", "float32", 64, 1, False),
            Link(("data",), "all-reduce", "float32", 5 * 96, 5, False),
            Link(("data",), "reduce-scatter", "float32", 48, 1, False),
            Link(("data", "chips"), "all-reduce", "float32", 112, 1, True),
        ),
        True,
    )


def test_an_axis_that_nobody_named_is_told():
    with pytest.raises(UnsupportedInput, match="give their sizes"):
        optim.traffic(lambda x: lax.psum(x, "data"), jnp.zeros(3))
    ragged = lambda x: lax.pswapaxes(x, "data", 0)  # noqa: E731  an all_to_all
    assert optim.traffic(ragged, jnp.zeros((2, 2)), axes={"data": 2}).nbytes == 8
