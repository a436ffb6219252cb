"""lift(fn): the same function, on compressed weights.

    logits = jax.jit(jc.lift(model.apply))(small, tokens)

fn is traced with the dense shapes of its compressed arguments, and what was traced is evaluated
with the compressed leaves themselves: dot_general, convolutions, ragged products and lookups meet
packed weights; transposes, reshapes, slices and loops over stacked layers are followed. fn is not
changed, nothing is patched, and where a dense weight had to be made, report() says so.
"""

import functools
import types
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxcomp.base import MaterialisedLeaf, UnsupportedInput
from jaxcomp.formats.leaf import Leaf
from jaxcomp.formats.product import batched
from jaxcomp.lift import convolution, lookup
from jaxcomp.lift.call import Cached, Call, named, split
from jaxcomp.lift.product import rounds, transposed
from jaxcomp.lift.report import Report, Row, row
from jaxcomp.lift.sharding import check_uncut
from jaxcomp.lift.view import JOIN, Source, View, whole
from jaxcomp.lift.walk import bind, evaluate


class lift:  # noqa: N801  a function with a report
    """fn on compressed leaves anywhere in its arguments; all else is as fn has it.

    strict  raise MaterialisedLeaf where an operation needs a dense weight, naming both.

    Works under jit, grad (of dense arguments, scales, zeros, factors), scan, shard_map and vmap, of
    leaves over leading axes only. Derivatives are of reverse mode only: no jax.jvp or jax.jacfwd
    through packed products. Arguments that are not arrays (train=False, rngs=None) stay Python
    values. Called outside jit, one compiled program is kept for each structure and shapes: as with
    jit, what fn closes over is read once, when that program is made.
    """

    def __init__(self, fn: Callable[..., Any], *, strict: bool = False):
        self.fn = fn
        self.strict = strict
        self._cached = Cached(self._run)
        functools.update_wrapper(self, fn, updated=())

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._cached(split(self.fn, args, kwargs))

    def report(self, *args: Any, platform: str | None = None, **kwargs: Any) -> Report:
        """What would run on each compressed leaf, for the same arguments; nothing is computed.

        platform: "cpu", "cuda" ("gpu" is the same) or "tpu"; this machine's by default.
        """
        call = split(self.fn, args, kwargs)
        asked = platform or jax.default_backend()
        platform = _PLATFORMS.get(asked)
        if platform is None:
            raise UnsupportedInput(
                f"expected a platform among {', '.join(_PLATFORMS)}, got {asked!r}; name one"
            )
        handler = _Packed(False, platform, dict(call.compressed()))
        jax.eval_shape(lambda arrays: self._run(call, arrays, handler)[0], call.arrays)
        met = {path for row in handler.rows for path in row.path.split(JOIN)}
        for path, leaf in call.compressed():
            if path not in met:
                handler.rows.append(row(path, [leaf], "", "unused", "nothing multiplies by it"))
        held = {path: (leaf.nbytes, leaf.size) for path, leaf in call.compressed()}
        return Report(handler.rows, held)

    def _run(self, call: Call, arrays: list[Any], handler: "_Packed | None" = None) -> Any:
        handler = handler or _Packed(self.strict, "cpu", {})
        for path, x in zip(call.paths, arrays, strict=True):
            if isinstance(x, Leaf):
                check_uncut(path, x)
        traced = call.trace(arrays)
        inputs = [
            whole(Source(path, x, ndim=x.ndim)) if isinstance(x, Leaf) else x
            for path, x in zip(call.paths, arrays, strict=True)
        ]
        closed = traced.jaxpr
        out = evaluate(closed.jaxpr, closed.consts, inputs, handler)
        return [_returned(x, handler) for x in out], traced


_PLATFORMS = {"cpu": "cpu", "cuda": "cuda", "gpu": "cuda", "tpu": "tpu"}


def _returned(x: Any, handler: "_Packed") -> Any:
    if not isinstance(x, View):
        return x
    if x.is_whole:
        return x.source.array
    return handler.materialise(x, "return", "the function returns it transformed")


class _Packed:
    """The handler that multiplies by packed weights, and writes down what it did."""

    def __init__(self, strict: bool, platform: str, leaves: dict[str, Leaf]):
        self.state: dict[str, Any] = {}
        self.strict = strict
        self.platform = platform
        self.leaves = leaves  # whole, by path; loops and slices see parts of them
        self.rows: list[Row] = []

    def _write(self, view: View, operation: str, ran: str, why: str) -> None:
        path = view.source.path
        whole = [self.leaves.get(each, view.source.array) for each in path.split(JOIN)]
        new = row(path, whole, operation, ran, why)
        if new not in self.rows:
            self.rows.append(new)

    def product(self, view, x, plan, equation):
        leaf, place = view.source.array, view.source.array.layout
        if leaf.decoded:
            return self._decoded(view, x, equation, plan.first)
        others = tuple(axis for axis in place.free if axis not in plan.batch)
        name, why = leaf.kernel(self.platform, x.dtype)
        if not set(plan.batch).isdisjoint(place.axes):
            return f"it is paired along axes {plan.batch}, and is packed along {place.axes}"
        summed = _sizable(leaf, plan.contracted)
        if summed == _sizable(leaf, place.axes):
            run = batched
        elif summed == _sizable(leaf, others) and not rounds(leaf):
            run, why = transposed, f"it is packed along {place.axes}, and summed over {others}"
            if "quant_matmul" in name:
                name = name.replace("quant_matmul", "blocked lax")
                why = "no kernel for the transposed product"
        else:
            return f"it sums over axes {plan.contracted}, and is packed along {place.axes}"
        self._write(view, "dot_general", name, why)
        dtype = equation.outvars[0].aval.dtype

        def multiply(view, x):
            first = lookup.batch_first(view.source.array, plan.batch)
            return plan.finish(run(plan.vectors(x), first, len(plan.batch))).astype(dtype)

        # Products are in x's dtype; a wider result was asked for to be summed and kept as such.
        x = x.astype(jnp.promote_types(x.dtype, dtype))
        return _anywhere(multiply, equation.outvars[0].aval.sharding, view, x)

    def convolution(self, view, x, equation):
        leaf = view.source.array
        if leaf.decoded:
            return self._decoded(view, x, equation)
        summed = convolution.summed_axes(view, equation.params)
        if isinstance(summed, str):
            return summed
        if _sizable(leaf, summed) != _sizable(leaf, leaf.layout.axes):
            return f"it sums over axes {summed}, and is packed along {leaf.layout.axes}"
        self._write(view, "conv_general_dilated", *leaf.kernel(self.platform, x.dtype))
        dtype = equation.outvars[0].aval.dtype

        def multiply(view, x):
            rows, finish = convolution.patches(view, x, equation.params, summed)
            return finish(view.source.array.matmul(rows)).astype(dtype)

        x = x.astype(jnp.promote_types(x.dtype, dtype))
        return _anywhere(multiply, equation.outvars[0].aval.sharding, view, x)

    def _decoded(self, view, x, equation, first=False):
        """The function's own operation, so that its result is that of the dense weight."""
        leaf = view.source.array
        self._write(view, equation.primitive.name, *leaf.kernel(self.platform, x.dtype))
        w = self._dense(view)
        return bind(equation, [w, x] if first else [x, w])[0]

    def lookup(self, view, indices, equation):
        found = lookup.find(view, indices, equation)
        if isinstance(found, str):
            return found
        self._write(view, "gather", "take", "")

        def take(view, indices):
            return lookup.rows(view, indices, equation)

        return _anywhere(take, equation.outvars[0].aval.sharding, view, indices)

    def ragged(self, view, x, sizes, equation):
        found = lookup.ragged(view, x, sizes, equation)
        if not isinstance(found, str):
            self._write(view, equation.primitive.name, "one matrix at a time", "")
        return found

    def differentiated(self, view, operation, why):
        """A rule that will need the dense array, if it comes to that."""
        self._write(view, operation, "dense in its gradient", why)

    def materialise(self, view, operation, why):
        if self.strict:
            leaf = view.source.array
            raise MaterialisedLeaf(
                f"expected every compressed leaf to stay packed, got {operation} on "
                f"{named(view.source.path)} ({leaf.describe()}): {why}; leave it out with where=, "
                "pack it along another axis, or call lift without strict"
            )
        self._write(view, operation, "dense", why)
        return self._dense(view)

    def _dense(self, view):
        mesh = jax.typeof(view.source.array.parts[0]).sharding.mesh
        return _anywhere(View.dense, NamedSharding(mesh, PartitionSpec()), view)


def _anywhere(function: Callable[..., Any], place: Any, view: View, *arrays: Any) -> Any:
    """function(view, *arrays), which on an explicit mesh does not say where what it makes lies.

    place: the sharding of the result there.
    """
    if all(kind != AxisType.Explicit for kind in place.mesh.axis_types):
        return function(view, *arrays)

    def inner(leaf, *arrays):
        return function(replace(view, source=replace(view.source, array=leaf)), *arrays)

    return jax.sharding.auto_axes(inner, out_sharding=place)(view.source.array, *arrays)


def _sizable(leaf: Leaf, axes: tuple[int, ...]) -> tuple[int, ...]:
    """The axes without those of size 1, which no operation can tell from none."""
    return tuple(axis for axis in axes if leaf.shape[axis] > 1)
