"""lift(fn): the same function, on compressed weights.

    logits = jax.jit(jc.lift(model.apply))(small, tokens)

fn is traced with the dense shapes of its compressed arguments, and what was traced is evaluated
with the compressed leaves themselves: dot_general, convolutions, ragged products and lookups meet
packed weights; transposes, reshapes, slices and loops over stacked layers are followed. fn is not
changed, nothing is patched, and where a dense weight had to be made, report() says so.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxcomp.base import MaterialisedLeaf
from jaxcomp.formats.leaf import Leaf
from jaxcomp.formats.product import batched
from jaxcomp.lift import convolution, lookup
from jaxcomp.lift.call import Cached, Call, split
from jaxcomp.lift.report import Report, Row
from jaxcomp.lift.view import Source, View, whole
from jaxcomp.lift.walk import evaluate


class lift:  # noqa: N801  a function with a report
    """fn on compressed leaves anywhere in its arguments; all else is as fn has it.

    strict  raise MaterialisedLeaf where an operation needs a dense weight, naming both.

    Works under jit, vmap, grad (of dense arguments, scales, zeros, factors), scan and shard_map.
    Arguments that are not arrays (train=False, rngs=None) stay Python values. Called outside jit,
    one compiled program is kept for each structure and shapes.
    """

    def __init__(self, fn: Callable[..., Any], *, strict: bool = False):
        self.fn = fn
        self.strict = strict
        self._cached = Cached(self._run)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._cached(split(self.fn, args, kwargs))

    def report(self, *args: Any, platform: str | None = None, **kwargs: Any) -> Report:
        """What would run on each compressed leaf, for the same arguments; nothing is computed.

        platform: "cpu", "cuda" or "tpu"; this machine's by default.
        """
        call = split(self.fn, args, kwargs)
        platform = platform or {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
        handler = _Packed(False, platform)
        jax.eval_shape(lambda arrays: self._run(call, arrays, handler)[0], call.arrays)
        unused = [
            Row(path, leaf.describe(), leaf.nbytes, leaf.size, "", "unused", "nothing reads it")
            for path, leaf in call.compressed()
            if path not in {row.path for row in handler.rows}
        ]
        return Report([*handler.rows, *unused])

    def _run(self, call: Call, arrays: list[Any], handler: "_Packed | None" = None) -> Any:
        handler = handler or _Packed(self.strict, "cpu")
        traced = call.trace(arrays)
        inputs = [
            whole(Source(path, x, ndim=x.ndim)) if isinstance(x, Leaf) else x
            for path, x in zip(call.paths, arrays, strict=True)
        ]
        closed = traced.jaxpr
        out = evaluate(closed.jaxpr, closed.consts, inputs, handler)
        return [_returned(x, handler) for x in out], traced


def _returned(x: Any, handler: "_Packed") -> Any:
    if not isinstance(x, View):
        return x
    if x.is_whole:
        return x.source.array
    return handler.materialise(x, "return", "the function returns it transformed")


class _Packed:
    """The handler that multiplies by packed weights, and writes down what it did."""

    def __init__(self, strict: bool, platform: str):
        self.state: dict[str, Any] = {}
        self.strict = strict
        self.platform = platform
        self.rows: list[Row] = []

    def _write(self, view: View, operation: str, ran: str, why: str) -> None:
        leaf = view.source.array
        row = Row(view.source.path, leaf.describe(), leaf.nbytes, leaf.size, operation, ran, why)
        if row not in self.rows:
            self.rows.append(row)

    def product(self, view, x, plan, equation):
        leaf = view.source.array
        packed = tuple(axis for axis, size in leaf.packed if size > 1)
        if plan.contracted != packed:
            return f"it sums over axes {plan.contracted}, and is packed along {packed}"
        leaf = lookup.batch_first(leaf, plan.batch)
        self._write(view, "dot_general", *leaf.kernel(self.platform))
        kind = equation.params["preferred_element_type"]
        x = (
            x
            if x.dtype == view.dtype or kind is None
            else x.astype(jnp.promote_types(x.dtype, view.dtype))
        )
        return plan.finish(batched(plan.vectors(x), leaf, len(plan.batch)))

    def convolution(self, view, x, equation):
        leaf = view.source.array
        summed = convolution.summed_axes(view, equation.params)
        if isinstance(summed, str):
            return summed
        if summed != leaf.layout.axes:
            return f"it sums over axes {summed}, and is packed along {leaf.layout.axes}"
        rows, finish = convolution.patches(view, x, equation.params, summed)
        self._write(view, "conv_general_dilated", *leaf.kernel(self.platform))
        return finish(leaf.matmul(rows)).astype(equation.outvars[0].aval.dtype)

    def lookup(self, view, indices, equation):
        found = lookup.rows(view, indices, equation)
        if not isinstance(found, str):
            self._write(view, "gather", "take", "")
        return found

    def ragged(self, view, x, sizes, equation):
        found = lookup.ragged(view, x, sizes, equation)
        if not isinstance(found, str):
            self._write(view, equation.primitive.name, "one matrix at a time", "")
        return found

    def materialise(self, view, operation, why):
        if self.strict:
            leaf = view.source.array
            raise MaterialisedLeaf(
                f"expected every compressed leaf to stay packed, got {operation} on "
                f"{view.source.path} ({leaf.describe()}): {why}; leave it out with where=, pack it "
                "along another axis, or call lift without strict"
            )
        self._write(view, operation, "dense", why)
        return view.dense()
