"""Builders of rows that train on the outputs of the whole model, for benchmarks/weights.py."""

import jax.numpy as jnp

import jaxcomp as jc

F, W = jc.formats, jc.weights
TRAINING_STEPS = 300  # of quantisation-aware training: two minutes a row


def padded(format):
    return format._replace(pad=True)


def masked(fn):
    """fn(params, tokens, mask), alike for every params where the mask is False."""
    return lambda params, tokens, mask: jnp.where(mask[..., None], fn(params, tokens), 0.0)


def trained(method):
    """Quantisation-aware training towards the float model's own distribution."""

    def build(task, stats):
        small = W.compress(task.params, method, stats=stats)
        small = W.distil(
            masked(task.fn),
            small,
            lambda small: small,
            task.training,
            reference=task.params,
            steps=TRAINING_STEPS,
        )
        return F.freeze(small)

    return build


def tuned(method, **options):
    """Codes and codebooks trained towards the float model's own distribution."""

    def build(task, stats):
        small = W.compress(task.params, method, stats=stats)
        return W.pv_tuning(
            masked(task.fn),
            small,
            task.training,
            reference=task.params,
            steps=TRAINING_STEPS,
            **options,
        )

    return build


def sized(bits_per_weight):
    """Grids and weights trained for a size of the file."""
    return lambda task, stats: W.l2(
        masked(task.fn),
        task.params,
        task.training,
        bits_per_weight=bits_per_weight,
        stats=stats,
        steps=(TRAINING_STEPS // 2, TRAINING_STEPS // 2),
    )


def gains_tuned(method):
    def build(task, stats):
        return W.bias_tuning(
            masked(task.fn),
            W.compress(task.params, method, stats=stats),
            task.training,
            reference=task.params,
            steps=TRAINING_STEPS // 2,
            where=lambda path, x: "norm" in path,
        )

    return build


def widths(bits, *, trained):
    """One store of 8 bits, seen at a few: as rounded, or trained for 2, 3, 4 and 8 at once."""

    def build(task, stats):
        store = W.compress(
            task.params, W.double_rounding(padded(F.INT8._replace(group=32))), stats=stats
        )
        if trained:
            store = W.train_widths(
                masked(task.fn), store, task.training, reference=task.params, steps=TRAINING_STEPS
            )
        return W.at_bits(store, bits)

    return build
