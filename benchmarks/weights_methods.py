"""The methods that benchmarks/weights.py compares, in sections whose first row is the baseline."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jaxcomp as jc
from benchmarks.weights_tasks import kl
from benchmarks.weights_training import (
    TRAINING_STEPS,
    gains_tuned,
    padded,
    sized,
    trained,
    tuned,
    widths,
)

F, W = jc.formats, jc.weights


class Section(NamedTuple):
    """A table: the model it is about, and label -> (task, stats) -> compressed params.

    pairs: (label, other) whose difference is asked for too, beside that of each from the first row.
    """

    task: str
    title: str
    methods: dict[str, Callable[[Any, Any], Any]]
    pairs: tuple[tuple[str, str], ...] = ()


def by(method):
    """Every weight that the model multiplies, by one method."""
    return lambda task, stats: W.compress(task.params, method, stats=stats)


def at_bits(symmetric, asymmetric):
    """Weight-only methods on one grid, or on their own of as many bits."""
    f, u = padded(symmetric), padded(asymmetric)
    bits, group = f.bits, f.group
    rows = {
        "rtn": by(W.rtn(u)),
        "rtn, clipped": by(W.rtn(u, clip=True)),
        "hqq": by(W.hqq(u._replace(zero="bfloat16"))),
        "awq": by(W.awq(u)),
        "gptq, columns in order": by(W.gptq(u, order="none")),
        "gptq": by(W.gptq(u)),
        "gptq, clipped": by(W.gptq(u, clip=True)),
        "awq of gptq": by(W.awq(W.gptq(u))),
        "adaquant": by(W.adaquant(u)),
        "adaquant of gptq": by(W.adaquant(u, start="gptq")),
        "rtn, symmetric": by(W.rtn(f)),
        "gptq, symmetric": by(W.gptq(f)),
    }
    if bits > 2:
        rows |= {"power": by(W.power(f)), "llm_fp4": by(W.llm_fp4(f))}
    if bits < 8:
        each = f._replace(group=-1)
        rows |= {"jlcm": by(W.jlcm(bits)), "nupes, per output": by(W.nupes(each))}
    if bits == 4:
        rows |= {"olive": by(W.olive(f))}
    if group == 32:
        if bits < 8:
            rows |= {"spqr": by(W.spqr(padded(W.SPQR3._replace(bits=bits))))}
        if bits == 4:
            rows |= {"progressive": by(W.progressive(group, pad=True))}
    if bits in (4, 8):
        half = f._replace(bits=bits // 2, offset=1 << bits // 2 - 1)
        rows |= {f"rex, 2 terms of {half.bits} bits": by(W.rex(half))}
    return rows


def untied(task):
    """The model with a table to look up and one to multiply: both can change."""
    return task.params | {"classifier": task.params["embedding"]}


def looked_up_too(params, format):
    """The table rounded by rows: it is multiplied by nothing, so no method would take it."""
    return params | {"embedding": F.quantize(params["embedding"], format, axes=-1)}


def short(task):
    """A batch to find symmetries with."""
    return task.calibration[0][:1, :8]


def folded_awq(format):
    """Scales folded into what comes before: nothing is left at run time."""

    def build(task, stats):
        params = untied(task)
        stats = jc.observe(task.fn, params, task.calibration)
        moved, stats = W.awq_folded(task.fn, params, short(task), stats=stats, method=format)
        return W.compress(looked_up_too(moved, format), W.awq(format, grid=1), stats=stats)

    return build


def learned_rotations(format, activation, inner):
    """Folded into weights, but for those behind the gate of an MLP, which rotate as they run."""

    def build(task, stats):
        def is_down(path, leaf):
            return path.endswith("w2")

        def how(path, leaf):
            if is_down(path, leaf):
                return W.hadamard(inner, activation=activation)
            return W.activation(inner, activation)

        params = untied(task)
        moved = W.ostquant(
            task.fn,
            params,
            task.calibration,
            weights=format,
            activations=activation,
            online=is_down,
            symmetries=jc.symmetries(task.fn, params, short(task)),
        )
        stats = jc.observe(task.fn, moved, task.calibration)
        return W.compress(looked_up_too(moved, format), how, stats=stats, axes=-1)

    return build


def rounded_activations(weights, activation):
    """Weights and activations rounded: every method on the same two grids."""
    f = padded(weights)
    return {
        "rtn": by(W.activation(W.rtn(f), activation)),
        "smoothquant": by(W.smoothquant(f, activation=activation)),
        "hadamard": by(W.hadamard(f, activation=activation)),
        "gptq": by(W.activation(W.gptq(f), activation)),
        "hadamard of gptq": by(W.hadamard(W.gptq(f), activation=activation)),
    }


# Both sides of which the sign is read off the table: symmetric grids have no middle at few bits.
SYMMETRIC = (("gptq, symmetric", "rtn, symmetric"),)


def low_rank(task, format, rank):
    """What a few factors add, beside groups of half the size for about the same bytes."""
    f = padded(format)
    smaller = f._replace(group=f.group // 2)
    lorc, eora, both = f"lorc {rank}", f"eora {rank}", f"eora {rank} of gptq"
    methods = {
        "rtn": by(W.rtn(f)),
        "rtn, smaller groups": by(W.rtn(smaller)),
        lorc: by(W.lorc(f, rank, factors=F.INT8)),
        eora: by(W.eora(f, rank, factors=F.INT8)),
        both: by(W.eora(W.gptq(f), rank, factors=F.INT8)),
        "gptq, smaller groups": by(W.gptq(smaller)),
    }
    pairs = (
        (eora, lorc),
        (lorc, "rtn, smaller groups"),
        (eora, "rtn, smaller groups"),
        (both, "gptq, smaller groups"),
    )
    return Section(task, f"{f.bits} bits and low rank", methods, pairs)


def fitness(task, count):
    """params -> KL to the float model on the first batches of the calibration set."""
    tokens = jnp.concatenate(task.calibration[:count])
    reference = jax.jit(task.fn)(task.params, tokens)
    run = jax.jit(lambda params, reference: kl(reference, task.fn(params, tokens)).mean())
    return lambda params: float(run(params, reference))


def allocated(search, loss="output"):
    """Each weight at 2 to 8 bits by gptq, in the bytes of 3 bits for all."""

    def build(task, stats):
        widths = {bits: F.UINT3_G32._replace(bits=bits) for bits in (2, 3, 4, 5, 6, 8)}
        methods = {f"{bits} bits": W.gptq(padded(format)) for bits, format in widths.items()}
        how = loss if isinstance(loss, str) else loss(task)
        table = W.choices(task.params, methods, stats=stats, loss=how)
        uniform = W.plan_of(table, "3 bits")
        return W.assemble(task.params, table, search(task, table, uniform))

    return build


def integer_programming(task, table, uniform):
    return W.allocate(table, uniform.nbytes)


def alone(task):
    return W.alone(task.params, fitness(task, 2))


def evolved(task, table, uniform):
    stages = [(fitness(task, 1), 4), (fitness(task, 4), 1)]
    plan, _ = W.evopress(task.params, table, stages, uniform.nbytes, generations=40, offspring=24)
    return plan


def in_files():
    """Rounding that knows that codes are coded: what counts is the size of the file."""
    rows = {"gptq, uint3 g32": by(W.gptq(padded(F.UINT3_G32)))}
    rows |= {"gptq, uint2 g32, clipped": by(W.gptq(padded(F.UINT2_G32), clip=True))}
    for step in (0.4, 0.55, 0.75, 1.0):
        rows[f"entropy_constrained, step {step}"] = by(W.entropy_constrained(step=step))
        rows[f"entropy_constrained, step {step}, output"] = by(
            W.entropy_constrained(step=step, output=True)
        )
    for slope in (3e-3, 1e-2):
        rows[f"entropy_constrained, slope {slope}, output"] = by(
            W.entropy_constrained(slope=slope, output=True)
        )
    return rows


def number_formats():
    """Round to nearest on every kind of grid."""
    named = {
        "fp8 e4m3": F.FP8_E4M3,
        "int8": F.INT8,
        "mxfp8": F.MXFP8,
        "nvfp4": F.NVFP4,
        "mxfp4": F.MXFP4,
        "nf4 g64": F.NF4,
        "int4 g32": F.INT4_G32,
        "uint4 g32": F.UINT4_G32,
        "uint3 g32": F.UINT3_G32,
        "uint2 g16": F.UINT2_G16,
    }
    return {label: by(W.rtn(padded(format))) for label, format in named.items()}


SECTIONS = {
    "stories 8": Section("stories", "8 bits per channel", at_bits(F.INT8, F.UINT8), SYMMETRIC),
    "stories 4": Section(
        "stories", "4 bits, groups of 32", at_bits(F.INT4_G32, F.UINT4_G32), SYMMETRIC
    ),
    "stories 3": Section(
        "stories", "3 bits, groups of 32", at_bits(F.INT3_G32, F.UINT3_G32), SYMMETRIC
    ),
    "stories 2": Section(
        "stories", "2 bits, groups of 32", at_bits(F.INT2_G32, F.UINT2_G32), SYMMETRIC
    ),
    "stories formats": Section("stories", "round to nearest by format", number_formats()),
    "stories W8A8": Section("stories", "W8A8", rounded_activations(F.INT8, "int8")),
    "stories W4A4": Section(
        "stories",
        "W4A4, groups of 32",
        rounded_activations(F.INT4_G32, "int4")
        | {
            "ostquant": learned_rotations(padded(F.INT4_G32), "int4", W.rtn(padded(F.INT4_G32))),
            "ostquant of gptq": learned_rotations(
                padded(F.INT4_G32), "int4", W.gptq(padded(F.INT4_G32))
            ),
        },
    ),
    "stories low rank 4": low_rank("stories", F.UINT4_G32, 3),
    "stories low rank 3": low_rank("stories", F.UINT3_G32, 3),
    "stories low rank 2": low_rank("stories", F.UINT2_G32, 3),
    "stories allocation": Section(
        "stories",
        "2 to 8 bits for each weight, in the bytes of 3 for all",
        {
            "uniform": allocated(lambda task, table, uniform: uniform),
            "integer programming, output errors": allocated(integer_programming),
            "integer programming, each alone": allocated(integer_programming, alone),
            "evopress": allocated(evolved, alone),
        },
    ),
    "stories 2 trained": Section(
        "stories",
        f"2 bits, trained for {TRAINING_STEPS} steps",
        {
            "gptq, uint2 g32, clipped": by(W.gptq(padded(F.UINT2_G32), clip=True)),
            "aqlm, 16 pairs": by(W.aqlm(vector=2, books=1, bits=4)),
            "aqlm, codebooks trained": tuned(W.aqlm(vector=2, books=1, bits=4), share=0),
            "aqlm, pv_tuning": tuned(W.aqlm(vector=2, books=1, bits=4)),
            "l2, 2.2 bits in a file": sized(2.2),
            "l2, 3 bits in a file": sized(3.0),
            "paretoq 2": trained(W.paretoq(2)),
            "paretoq 1.58": trained(W.paretoq(1.58)),
            "paretoq 1": trained(W.paretoq(1)),
            "lsq int2 per channel": trained(W.lsq(F.INT2)),
            "paretoq 3": trained(W.paretoq(3)),
            "paretoq 4": trained(W.paretoq(4)),
        },
    ),
    "stories files": Section("stories", "rounding for a file", in_files()),
    "stories tuned": Section(
        "stories",
        "3 bits, and what stayed floats trained",
        {
            "gptq": by(W.gptq(padded(F.UINT3_G32))),
            "gptq, gains tuned": gains_tuned(W.gptq(padded(F.UINT3_G32))),
            "gptq, clipped": by(W.gptq(padded(F.UINT3_G32), clip=True)),
            "gptq, clipped, gains tuned": gains_tuned(W.gptq(padded(F.UINT3_G32), clip=True)),
        },
    ),
    "stories widths": Section(
        "stories",
        "one store of 8 bits in groups of 32, seen at fewer",
        {
            f"{bits} bits, {'trained' if trained else 'as rounded'}": widths(bits, trained=trained)
            for bits in (2, 4)
            for trained in (False, True)
        },
    ),
    "stories folded": Section(
        "stories",
        "3 bits, scales folded into what comes before",
        {
            "rtn": by(W.rtn(padded(F.INT3_G32))),
            "awq, clip alone": by(W.awq(padded(F.INT3_G32), grid=1)),
            "awq": by(W.awq(padded(F.INT3_G32))),
            "awq, folded": folded_awq(padded(F.INT3_G32)),
        },
    ),
    "stories 172": Section(
        "stories",
        "the matrix of 172 inputs at 4 bits",
        {
            label: (
                lambda task, stats, format=format: W.compress(
                    task.params,
                    W.gptq(format),
                    stats=stats,
                    where=lambda path, leaf: path.endswith("w2"),
                )
            )
            for label, format in {
                "groups of 32, padded to 192": padded(F.UINT4_G32),
                "groups of 4": F.UINT4._replace(group=4),
                "per channel": F.UINT4,
            }.items()
        },
    ),
    "resnet 4": Section("resnet", "4 bits per channel", at_bits(F.INT4, F.UINT4), SYMMETRIC),
    "resnet 3": Section("resnet", "3 bits per channel", at_bits(F.INT3, F.UINT3), SYMMETRIC),
    "resnet W8A8": Section("resnet", "W8A8", rounded_activations(F.INT8, "int8")),
    "minilm formats": Section("minilm", "round to nearest by format", number_formats()),
    "minilm low rank 3": low_rank("minilm", F.UINT3_G32, 24),
    "minilm 4": Section(
        "minilm",
        "4 bits, groups of 32",
        {
            "rtn": by(W.rtn(F.UINT4_G32)),
            "gptq": by(W.gptq(F.UINT4_G32)),
            "awq": by(W.awq(F.UINT4_G32)),
        },
    ),
}
