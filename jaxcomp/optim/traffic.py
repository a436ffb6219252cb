"""The bytes that a function sends, found by tracing it: of any step, on meshes that are not there.

    all-reduce 2 (N - 1) / N of the array     all-gather N - 1 times it      ppermute all of it
    reduce-scatter, all-to-all (N - 1) / N

by one device, with ring algorithms (Patarasuk, Yuan, Bandwidth optimal all-reduce, JPDC 2009): of
what one device has before the collective, N being the devices along its axes. Nothing is computed
and nothing compiled. What a jaxpr has not is not seen: collectives that the compiler puts in for
shardings under jit, and copies that a Pallas kernel starts. What nobody uses is counted, until the
compiler drops it.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.sharding import AbstractMesh, PartitionSpec

from jaxcomp import tree
from jaxcomp.base import UnsupportedInput
from jaxcomp.optim.exchange import gather_nbytes, reduce_nbytes


def _part(nbytes: int, senders: int) -> int:
    return -(-(senders - 1) * nbytes // senders)


def _all(nbytes: int, senders: int) -> int:
    return nbytes if senders > 1 else 0


# Names of primitives, with and without the type of what varies along an axis, to those of the HLO.
KINDS = {
    **dict.fromkeys(("psum", "psum_invariant", "pmax", "pmin"), ("all-reduce", reduce_nbytes)),
    **dict.fromkeys(("all_gather", "all_gather_invariant"), ("all-gather", gather_nbytes)),
    "reduce_scatter": ("reduce-scatter", _part),
    "all_to_all": ("all-to-all", _part),
    "ppermute": ("collective-permute", _all),
    "pbroadcast": ("collective-broadcast", _all),
}
LOCAL = ("axis_index", "pvary", "pcast")  # name an axis and send nothing


class Link(NamedTuple):
    """axes, outer ones first; kind: the collective, as the HLO calls it; dtype: its name; nbytes:
    sent by one device; calls; per_turn: once for each turn of a while loop, whose number of turns a
    trace has not.
    """

    axes: tuple[str, ...]
    kind: str
    dtype: str
    nbytes: int
    calls: int
    per_turn: bool


class Traffic(NamedTuple):
    """links: one for each axes, kind and dtype. largest_branch: whether there was a cond whose
    branches send unlike amounts: what is here is then the most that can be sent.
    """

    links: tuple[Link, ...]
    largest_branch: bool

    @property
    def nbytes(self) -> int:
        """Of all links; loops without a known number of turns count as one turn."""
        return sum(link.nbytes for link in self.links)


def traffic(fn: Callable[..., Any], *args: Any, axes: Mapping[str, int] | None = None) -> Traffic:
    """fn(*args): what one device sends in one call.

    args: arrays or jax.ShapeDtypeStruct. fn has a shard_map in it, as a step of on_senders has; or
    is what one device runs: then axes are the names and sizes of the mesh, {"data": 512}, which
    needs no such devices. Scans count as often as they turn. Lanes of vmap send nothing.
    """
    if axes is not None:
        mesh = AbstractMesh(tuple(axes.values()), tuple(axes))
        everywhere = PartitionSpec()
        fn = jax.shard_map(
            fn, mesh=mesh, in_specs=everywhere, out_specs=everywhere, check_vma=False
        )
    try:
        jaxpr = jax.make_jaxpr(fn)(*args)
    except (NameError, UnsupportedInput) as error:
        unbound = error.__cause__ if isinstance(error, UnsupportedInput) else error
        if not isinstance(unbound, NameError):
            raise
        raise UnsupportedInput(
            f"expected a function whose axes a shard_map names, got {unbound}; give their sizes, "
            'axes={"data": 8}'
        ) from error
    found, largest = _walk(jaxpr, {})
    links = [Link(*key[:3], nbytes, calls, key[3]) for key, (nbytes, calls) in found.items()]
    return Traffic(tuple(sorted(links)), largest)


def _walk(jaxpr: Any, sizes: Mapping[str, int]) -> tuple[dict[tuple, tuple[int, int]], bool]:
    """{(axes, kind, dtype, per turn): (bytes, calls)}, and whether branches were unlike."""
    found: dict[tuple, tuple[int, int]] = {}
    largest = False

    def take(inside, times=1, per_turn=False):
        for (*key, turn), (nbytes, calls) in inside.items():
            where = (*key, turn or per_turn)
            before = found.get(where, (0, 0))
            found[where] = (before[0] + times * nbytes, before[1] + times * calls)

    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        name, params = equation.primitive.name, equation.params
        take(_sent(equation, sizes))
        within = {**sizes, **dict(params["mesh"].shape)} if name == "shard_map" else sizes
        inner = [_walk(each, within) for each in _jaxprs(params.values())]
        largest = largest or any(unlike for _, unlike in inner)
        if name == "cond" and inner:
            largest = largest or any(each != inner[0][0] for each, _ in inner)
            inner = [max(inner, key=lambda each: sum(nbytes for nbytes, _ in each[0].values()))]
        for each, _ in inner:
            take(each, params["length"] if name == "scan" else 1, name == "while")
    return found, largest


def _sent(equation: Any, sizes: Mapping[str, int]) -> dict[tuple, tuple[int, int]]:
    name, params = equation.primitive.name, equation.params
    axes = params.get("axis_name", params.get("axes", ()))
    axes = (axes,) if isinstance(axes, str) else axes
    axes = tuple(a for a in axes if isinstance(a, str)) if isinstance(axes, tuple) else ()
    if not axes or name in LOCAL:
        return {}
    if name not in KINDS:
        raise UnsupportedInput(
            f"expected collectives among {sorted(KINDS)}, got {name} along {axes}; count it apart"
        )
    kind, nbytes = KINDS[name]
    groups = params.get("axis_index_groups")
    senders = len(groups[0]) if groups else math.prod(sizes[axis] for axis in axes)
    found: dict[tuple, tuple[int, int]] = {}
    for array in (v.aval for v in equation.invars):
        key = (axes, kind, str(array.dtype), False)
        before = found.get(key, (0, 0))
        one = nbytes(tree.nbytes(jax.ShapeDtypeStruct(array.shape, array.dtype)), senders)
        found[key] = (before[0] + one, before[1] + 1)
    return found


def _jaxprs(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, ClosedJaxpr | Jaxpr):
            yield value
        elif isinstance(value, tuple | list):
            yield from _jaxprs(value)
