"""Tables counted from what is really coded, in place of the Gaussians that training assumes.

Real latents have heavier tails than a Gaussian of the scale that a network predicted, rounding by
rate leaves fewer of +-1, and means are inexact. A count over photos of what each row of the scale
table coded has all of that. Rows that hardly occur keep the Gaussian, which counts as WEIGHT
symbols everywhere; tables are symmetric, as means are what sets signs apart.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import UInt8

from jaxcomp import coding
from jaxcomp.base import Codec
from jaxcomp.coding import Tables
from jaxcomp.coding.tables import with_certain

from .latent_coding import analyse
from .latent_frozen import Frozen, freeze
from .latent_walk import coded_modes, slices_of_groups, tables_of
from .quality import host_step
from .training import QUALITIES

WEIGHT = 100.0


def calibrate(
    codec: Codec, params: Any, photos: Iterable[UInt8[np.ndarray, "h w 3"]], *, seed: int = 0
) -> Frozen:
    """The integers of trained params, with tables counted over photos.

    codec: of latent_codec. Each photo is coded once, at a quality drawn for it.
    """
    design = codec.init.args[0]
    frozen = params if isinstance(params, Frozen) else freeze(design, params)
    groups, rng = slices_of_groups(design), np.random.default_rng(seed)
    counts = {
        name: np.zeros(np.asarray(getattr(frozen, name).entries).shape)
        for name in ("wide", "narrow", "modes")
        if getattr(frozen, name) is not None
    }
    for photo in photos:
        step = host_step(rng.uniform(*QUALITIES))
        choices = analyse(design, frozen, photo, step)
        if choices.modes is not None:
            modes, rows = coded_modes(step, choices)
            np.add.at(counts["modes"], (rows, modes), 1)
        for k, symbols, rows in zip(groups, choices.symbols, choices.rows, strict=True):
            name = "wide" if tables_of(frozen, k) is frozen.wide else "narrow"
            _count(counts[name], getattr(frozen, name), symbols, rows)
    made = {name: _tables(getattr(frozen, name), count) for name, count in counts.items()}
    return frozen._replace(**made)


def _count(counts, tables, symbols, rows):
    """Add symbols, and their negatives, to the columns of their rows; the last is the escape."""
    offset = np.asarray(tables.offset)[rows]
    last = counts.shape[1] - 1
    for signed in (symbols, -symbols):
        column = signed - offset
        column = np.where((column >= 0) & (column < last), column, last)
        np.add.at(counts, (rows.ravel(), column.ravel()), 0.5)


def _tables(tables: Tables, counts: np.ndarray) -> Tables:
    """All rows but the certain one, counted."""
    first = np.asarray(tables.frequencies)[:-1].astype(np.float64)
    pmf = counts[:-1] + WEIGHT * first / first.sum(1, keepdims=True)
    offset = np.asarray(tables.offset)[:-1]
    return with_certain(coding.build_tables(pmf, offset=offset, escape=tables.escape))
