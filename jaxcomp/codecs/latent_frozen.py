"""What training leaves, once: the integers and tables that encode and decode."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32

from jaxcomp import coding, entropy
from jaxcomp.coding import Tables
from jaxcomp.coding.tables import with_certain
from jaxcomp.nets import gain
from jaxcomp.nets.integer import to_integers

from .latent_blocks import MODES
from .latent_codec import GAIN_BITS, Design, example, joined, networks
from .latent_prior import LEVEL_BITS, OCTAVES, SCALES

LEVELS = ((OCTAVES - 1) << LEVEL_BITS) + 1
# Slices after these are of high frequencies: their symbols rarely leave a narrow table, in which a
# symbol that is nearly certain costs 0.0007 bits instead of 0.006.
WIDE_SLICES = 4
WIDE_SYMBOLS, NARROW_SYMBOLS = 256, 32
TABLES = "side", "wide", "narrow", "modes"
CERTAIN = len(SCALES)  # the row of what is not coded


class Frozen(NamedTuple):
    """What encodes and decodes: analysis in floats, everything a decoder needs in integers."""

    analysis: Any
    prior: Any  # floats of the part that makes side information
    prior_integers: Any
    synthesis_integers: Any
    inverse_gains: Int32[Array, "levels c"]  # in 2**-GAIN_BITS
    side: Tables
    wide: Tables
    narrow: Tables
    modes: Tables | None = None  # by octave of the step, where blocks have modes


def freeze(design: Design, params: dict[str, Any]) -> Frozen:
    """The integers of trained parameters; once, after training."""
    nets = networks(design)
    latents, *modes = example(design)
    wide, narrow = (
        entropy.gaussian(maximum_symbols=n, scales=SCALES).tables({})
        for n in (WIDE_SYMBOLS, NARROW_SYMBOLS)
    )
    floats = ("squeeze", "coarse")
    encoder = {k: v for k, v in params["prior"]["params"].items() if k.startswith(floats)}
    level = jnp.zeros(1, jnp.int32)
    return Frozen(
        params["analysis"],
        {"params": encoder},
        to_integers(nets.prior, params["prior"], latents, level, *modes),
        to_integers(nets.synthesis, params["synthesis"], joined(latents, *modes), *modes),
        gain.tables(nets.gain, params["gain"], LEVELS, fraction=GAIN_BITS)[1],
        with_certain(nets.side.tables(params["side"])),
        with_certain(wide),
        with_certain(narrow),
        with_certain(coding.build_tables(np.ones((OCTAVES, MODES)))) if design.split else None,
    )


def to_arrays(frozen: Frozen) -> dict[str, Any]:
    """Nested dicts of arrays, as a weights file holds them: tables by frequencies and offsets."""
    out = frozen._asdict()
    if out["modes"] is None:
        del out["modes"]
    for name in set(TABLES) & set(out):
        frequencies = np.asarray(out[name].frequencies)[:-1]
        out[name] = {"frequencies": frequencies, "offset": np.asarray(out[name].offset)[:-1]}
    return out


def from_arrays(arrays: dict[str, Any]) -> Frozen:
    """The inverse of to_arrays."""
    arrays = dict(arrays)
    for name in set(TABLES) & set(arrays):
        stored = arrays[name]
        # Frequencies are their own best approximation: the tables come out as they were.
        tables = coding.build_tables(
            stored["frequencies"].astype(np.float64),
            offset=stored["offset"],
            escape=name != "modes",
        )
        arrays[name] = with_certain(tables)
    # The first files hold a network beside the linear part as well, which never learned.
    linear = arrays["analysis"]["params"]["Dense_0"]
    # Each group of latents takes all of the network: it is moved once.
    integers = jax.device_put(arrays["prior_integers"])
    analysis = {"params": {"Dense_0": linear}}
    return Frozen(**{**arrays, "analysis": analysis, "prior_integers": integers})
