"""Entropy models with one learned density per channel: the last axis of y is the channels."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jaxcomp.base import EntropyModel, JaxcompError
from jaxcomp.entropy.interval import LogMass, noisy_bits
from jaxcomp.entropy.row_tables import row_tables


def channelwise(
    init: Callable[..., Any],
    log_mass: LogMass,
    channels: int,
    **options: Any,
) -> EntropyModel:
    """The model of log_mass(params, lower, upper), whose arrays end in the axis of channels.

    bits(params, y) and index(params, shape); one table per channel. Options as row_tables. Raises
    JaxcompError for an array whose last axis is of another length.
    """

    def bits(params, y):
        check_channels(jnp.shape(y), channels)
        return noisy_bits(lambda lower, upper: log_mass(params, lower, upper), y)

    def index(params, shape):
        check_channels(shape, channels)
        return jnp.broadcast_to(jnp.arange(channels, dtype=jnp.int32), shape)

    return EntropyModel(init, bits, row_tables(log_mass, channels, **options), index)


def check_channels(shape: tuple[int, ...], channels: int) -> None:
    """Raise JaxcompError unless the last axis is the channels."""
    if not shape or shape[-1] != channels:
        raise JaxcompError(
            f"expected a last axis of {channels} channels, got shape {tuple(shape)}; move the axis"
        )
