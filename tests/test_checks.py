"""The checks themselves must be able to fail: each one is given a method that breaks its law."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.base import Codec, JaxcompError, Payload
from jaxcomp.coding import build_tables
from jaxcomp.measures import psnr_db
from tests import checks

PMF = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], np.float32)


@pytest.mark.parametrize("column", [0, 1, 2])
def test_check_tables_sees_a_wrong_frequency(column):
    tables = build_tables(PMF)
    checks.check_tables(tables)
    wrong = tables.entries.at[1, column].add(1 << 16)
    with pytest.raises(AssertionError):
        checks.check_tables(dataclasses.replace(tables, entries=wrong))


def test_check_round_trip_sees_a_symbol_that_was_not_coded():
    tables = build_tables(PMF)
    symbols = np.random.default_rng(0).integers(0, 3, 500).astype(np.int32)
    index = np.arange(500, dtype=np.int32) % 2
    checks.check_round_trip(tables, symbols, index)
    with pytest.raises((AssertionError, JaxcompError)):
        checks.check_round_trip(tables, np.where(symbols == 2, 3, symbols), index)


def test_check_rate_sees_a_costly_stream():
    tables = build_tables(PMF[:1])
    symbols = np.random.default_rng(0).choice(3, 20_000, p=PMF[0] / PMF[0].sum()).astype(np.int32)
    assert checks.check_rate(tables, symbols, factor=checks.DRAWN, lanes=4) >= 0.999
    with pytest.raises(AssertionError, match="lanes"):
        checks.check_rate(tables, symbols, factor=0.99, lanes=4)


def _shift_codec(error: int) -> Codec:
    """Stores an image as it is; decodes it off by `error`."""

    def decode(params, payload):
        pixels = np.frombuffer(payload.sections["pixels"], np.uint8) + np.uint8(error)
        return pixels.reshape(payload.header["shape"])

    return Codec(
        init=lambda key=None: None,
        apply=lambda params, x: (x, 8.0 * x.size),
        encode=lambda params, x: Payload({}, {"pixels": x.tobytes()}),
        decode=decode,
        name="shift",
    )


def test_check_codec_sees_one_wrong_level():
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    checks.check_codec(_shift_codec(0), image)
    with pytest.raises(AssertionError):
        checks.check_codec(_shift_codec(1), image)


def test_check_measure_sees_a_retrace_and_a_difference_under_jit():
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    checks.check_measure(psnr_db, x, x + 1)

    def differs_under_jit(x, y):
        return jnp.float32(isinstance(x, np.ndarray))

    with pytest.raises(AssertionError):
        checks.check_measure(differs_under_jit, x, x)


def test_float_primitives_sees_a_float_inside_a_loop():
    def doubled(x):
        return jax.lax.fori_loop(0, 3, lambda i, x: x * 2, x)

    def halved(x):
        return jax.lax.fori_loop(0, 3, lambda i, x: (x * 0.5).astype(jnp.int32), x)

    x = np.arange(8, dtype=np.int32)
    assert not checks.float_primitives(jax.jit(doubled), x)
    assert "mul" in checks.float_primitives(jax.jit(halved), x)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda params, x: x - x.max(),  # depends on its batch
        lambda params, x: x + (0 if isinstance(x, jax.core.Tracer) else 1),  # differs under jit
    ],
)
def test_check_same_everywhere_sees_a_dependence(wrong):
    x = np.arange(16, dtype=np.int32).reshape(8, 2)
    checks.check_same_everywhere(lambda params, x: x + params, np.int32(1), x)
    with pytest.raises(AssertionError):
        checks.check_same_everywhere(wrong, np.int32(1), x)


def test_check_exchange_sees_senders_apart_and_a_mean_of_something_else():
    from jaxcomp import optim
    from tests.checks_optim import check_exchange

    inputs = np.random.default_rng(0).normal(size=(2, 16)).astype(np.float32)

    def apart(axis):
        return optim.dense_mean(axis)._replace(mean=lambda key, x, state: (x, x, state))

    def doubled(axis):
        whole = optim.dense_mean(axis)

        def mean(key, x, state):
            sent, mean, state = whole.mean(key, x, state)
            return sent, 2 * mean, state

        return whole._replace(mean=mean)

    for wrong in (apart, doubled):
        with pytest.raises(AssertionError):
            check_exchange(wrong, inputs)
