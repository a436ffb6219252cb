"""Functions whose weights meet something else than a plain product: what transformations share."""

import math
from collections.abc import Callable
from typing import Any

import jax

from jaxcomp.base import UnsupportedInput
from jaxcomp.formats.leaf import Leaf
from jaxcomp.lift import convolution
from jaxcomp.lift.call import Cached, Call, split
from jaxcomp.lift.observe import Observation, recorded
from jaxcomp.lift.view import Source, View, whole
from jaxcomp.lift.walk import Handler, bind, evaluate

Where = Callable[[str, Any], bool]


def around_weights(
    fn: Callable[..., Any],
    handler: Callable[[], Handler],
    *,
    where: Where | None = None,
    prepare: Callable[[jax.Array, Observation], jax.Array] = lambda w, seen: w,
    leaves: bool = True,
) -> Callable[..., Any]:
    """fn(params, ...) with a handler at every selected weight of params that fn multiplies.

    prepare  what becomes of each such weight first, given what is known of it
    leaves   whether compressed leaves of params are handled too

    Raises UnsupportedInput where there is nothing to handle.
    """

    def run(call: Call, arrays: list[Any]) -> Any:
        record = recorded(call._replace(arrays=arrays), where)
        chosen = {path: seen for path, seen in record.items() if seen.multiplied}
        pairs = list(zip(call.paths, arrays, strict=True))
        packed = {path for path, x in pairs if leaves and isinstance(x, Leaf)}
        if not chosen and not packed:
            raise UnsupportedInput(
                f"expected a weight that fn multiplies, got none of {', '.join(record) or 'none'};"
                " check where=, and that params are the first argument"
            )
        traced = call.trace(arrays)
        inputs = []
        for path, x in pairs:
            x = prepare(x, chosen[path]) if path in chosen else x
            x = x.dense() if isinstance(x, Leaf) and path not in packed else x
            watched = path in chosen or path in packed
            inputs.append(whole(Source(path, x, ndim=x.ndim)) if watched else x)
        out = evaluate(traced.jaxpr.jaxpr, traced.jaxpr.consts, inputs, handler())
        return [x.dense() if isinstance(x, View) else x for x in out], traced

    cached = Cached(run)

    def transformed(*args, **kwargs):
        return cached(split(fn, args, kwargs))

    return transformed


def replace_products(
    fn: Callable[..., Any],
    product: Callable[[jax.Array, jax.Array], jax.Array],
    *,
    where: Where | None = None,
) -> Callable[..., Any]:
    """fn(params, ...) with product(x [rows, in], w [in, out]) -> [rows, out] for its weights.

    Convolutions are such products of patches. Lookups, ragged products and grouped convolutions
    stay as they are. where: (path, leaf) -> bool; by default every weight that fn multiplies.
    """
    return around_weights(fn, lambda: _Products(product), where=where)


class Plain:
    """A handler that changes nothing."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    def product(self, view, x, plan, equation):
        operands = [view.dense(), x] if plan.first else [x, view.dense()]
        return bind(equation, operands)[0]

    def convolution(self, view, x, equation):
        return bind(equation, [x, view.dense()])[0]

    def lookup(self, view, indices, equation):
        return bind(equation, [view.dense(), indices])[0]

    def ragged(self, view, x, sizes, equation):
        return bind(equation, [x, view.dense(), sizes])[0]

    def materialise(self, view, operation, why):
        return view.dense()


class _Products(Plain):
    """Products and convolutions by a function of matrices."""

    def __init__(self, multiply: Callable[[jax.Array, jax.Array], jax.Array]):
        super().__init__()
        self.multiply = multiply

    def product(self, view, x, plan, equation):
        return plan.finish(self._multiplied(plan.vectors(x), view, plan.batch, plan.contracted))

    def convolution(self, view, x, equation):
        summed = convolution.summed_axes(view, equation.params)
        if isinstance(summed, str):
            return super().convolution(view, x, equation)
        rows, finish = convolution.patches(view, x, equation.params, summed)
        return finish(self._multiplied(rows, view, (), summed)).astype(
            equation.outvars[0].aval.dtype
        )

    def _multiplied(self, x, view, batch, summed):
        """x [*batch, rows, in] times the weight: [*batch, rows, *free axes]."""
        w = view.source.dense().astype(view.dtype)
        free = [axis for axis in range(-w.ndim, 0) if axis not in (*batch, *summed)]
        size = math.prod(w.shape[axis] for axis in summed)
        sizes = [w.shape[axis] for axis in free]
        w = w.transpose(*batch, *summed, *free)
        w = w.reshape(*w.shape[: len(batch)], size, math.prod(sizes))
        multiply = self.multiply
        for _ in batch:
            multiply = jax.vmap(multiply)
        out = multiply(x, w)
        return out.reshape(*out.shape[:-1], *sizes)
