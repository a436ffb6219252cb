"""Layers that train in floats and run in integers: the same network, the same values.

    net = Context()                                   # IntegerConv and IntegerDense inside
    params = net.init(key, x)                         # floats; train with any optimizer
    integers = to_integers(net, params, x)            # once; these travel with the model
    y = net.apply(integers, quantise(x, FEATURES))    # no float anywhere: the same on any device
    params = from_integers(net, integers, x)          # floats again, to train on

A layer given floats fake-quantises its input to `source`, computes with the integers that its
kernel and bias would become, and returns the values of `target`; see integer_layer.py for its
gradient. Given integers of `source`, it runs on the stored integers and returns integers of
`target`. Training therefore sees exactly what a decoder will compute.

Between layers keep to what means the same for both: reshape, transpose, concatenate, slice,
`resample`, and `fixed_point.add` and `rescale`.

Johannes Balle, Nick Johnston and David Minnen, Integer networks for data compression with
latent-variable models, ICLR 2019; Benoit Jacob et al., Quantization and training of neural networks
for efficient integer-arithmetic-only inference, CVPR 2018.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Num

from jaxcomp.base import JaxcompError
from jaxcomp.nets.fixed_point import (
    FixedPoint,
    check,
    dequantise,
    fake_quantise,
    is_integer,
    quantise,
    saturate,
)
from jaxcomp.nets.fixed_point import add as add
from jaxcomp.nets.fixed_point import rescale as rescale
from jaxcomp.nets.integer_layer import (
    FEATURES,
    Mask,
    Options,
    float_layer,
    floats_of,
    integers_of,
    run,
    train,
)
from jaxcomp.nets.integer_weights import IntegerWeights

COLLECTION = "integers"
# What macs.py traces to count must never be found in the cache by what is traced to run. Here, as
# a context that is made after programs were compiled has all of them compiled again.
COUNTING = jax.make_user_context(False)
CONVERSIONS = 16  # networks whose compiled conversion is kept: a design of a codec has two


class _Layer(nn.Module):
    """What dense and convolutional layers share: parameters, the two modes, and the conversion."""

    def layer(self, x: Any, shape: tuple[int, ...], options: Options, valid: bool) -> jax.Array:
        check(options.source, most=16)
        check(options.target)
        converting = self.is_mutable_collection(COLLECTION)  # init makes all collections mutable
        if is_integer(x) and not converting:
            return run(self._stored(shape), x, options, valid)
        if valid:
            raise JaxcompError("valid is for integers of to_integers; train on whole images")
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", self.bias_init, shape[-1:])
        if options.mask is not None:
            kernel = kernel * np.asarray(options.mask, np.float32)[:, :, None, None]
        if is_integer(x):
            x = dequantise(x, options.source)
        if converting and not self.is_initializing():
            stored = integers_of(kernel, bias, options)
            for name, value in stored._asdict().items():
                self.put_variable(COLLECTION, name, value)
        return train(fake_quantise(x, options.source), kernel, bias, options)

    def _stored(self, shape):
        if not self.has_variable(COLLECTION, "weights"):
            raise JaxcompError(
                f"layer {self.name!r} was given integers but has none of its own; "
                "pass what to_integers returns, or floats to train"
            )
        layer = IntegerWeights(
            *(self.get_variable(COLLECTION, name) for name in IntegerWeights._fields)
        )
        if layer.weights.shape != shape:
            raise JaxcompError(f"expected integer weights {shape}, got {layer.weights.shape}")
        return layer


class IntegerDense(_Layer):
    """y[..., features] = W x + b from grid to grid, in floats or integers."""

    features: int
    source: FixedPoint = FEATURES
    target: FixedPoint = FEATURES
    relu: bool = False
    weight_bits: int = 8
    kernel_init: Callable[..., Any] = nn.initializers.lecun_normal()
    bias_init: Callable[..., Any] = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: Num[Array | np.ndarray, "*batch c"]) -> Num[Array, "*batch f"]:
        options = Options(self.source, self.target, self.relu, self.weight_bits)
        return self.layer(x, (x.shape[-1], self.features), options, False)


class IntegerConv(_Layer):
    """Convolution of stride 1 that keeps the size, [..., h, w, c] -> [..., h, w, features].

    mask: which taps of the kernel are used, nested tuples of booleans (hashable), see
    checkerboard_mask. valid, for integers: x comes with the border that the kernel sees, and is
    that much smaller afterwards.
    """

    features: int
    kernel_size: tuple[int, int] = (3, 3)
    source: FixedPoint = FEATURES
    target: FixedPoint = FEATURES
    relu: bool = False
    weight_bits: int = 8
    groups: int = 1
    mask: Mask | None = None
    kernel_init: Callable[..., Any] = nn.initializers.lecun_normal()
    bias_init: Callable[..., Any] = nn.initializers.zeros

    @nn.compact
    def __call__(
        self, x: Num[Array | np.ndarray, "*batch h w c"], valid: bool = False
    ) -> Num[Array, "*batch m n f"]:
        if x.ndim < 3 or x.shape[-1] % self.groups:
            raise JaxcompError(
                f"expected [..., h, w, c] with c a multiple of {self.groups}, got {x.shape}"
            )
        shape = (*self.kernel_size, x.shape[-1] // self.groups, self.features)
        options = Options(
            self.source, self.target, self.relu, self.weight_bits, self.groups, self.mask
        )
        return self.layer(x, shape, options, valid)


class TableActivation(nn.Module):
    """Any scalar function between grids: 2**bits integers, looked up. Its gradient is its own."""

    function: Callable[[jax.Array], jax.Array]
    source: FixedPoint = FEATURES
    target: FixedPoint = FEATURES

    @nn.compact
    def __call__(self, x: Num[Array | np.ndarray, "*shape"]) -> Num[Array, "*shape"]:
        check(self.source, most=8)
        check(self.target)
        converting = self.is_mutable_collection(COLLECTION)
        if is_integer(x) and not converting:
            if not self.has_variable(COLLECTION, "table"):
                raise JaxcompError("expected the integers of to_integers, got none; pass them")
            row = saturate(x, self.source).astype(jnp.int32) - self.source.low
            return self.get_variable(COLLECTION, "table")[row]
        if is_integer(x):
            x = dequantise(x, self.source)
        if converting and not self.is_initializing():
            every = jnp.arange(self.source.low, self.source.high + 1, dtype=jnp.int32)
            values = self.function(dequantise(every, self.source))
            self.put_variable(COLLECTION, "table", quantise(values, self.target))
        return fake_quantise(self.function(fake_quantise(x, self.source)), self.target)


def to_integers(net: nn.Module, variables: Any, *example: Any, **options: Any) -> dict[str, Any]:
    """The integers of every integer layer of a network: variables for net.apply on integers.

    example and options are arguments of net.apply that reach every layer: arrays, of which only
    shapes matter, and by name what is not an array. Run it once after training: the integers, not
    the floats, are what encoder and decoder share. What it compiles serves other parameters of the
    same shapes. Raises JaxcompError for parameters that are not finite.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables.get("params", {})):
        if not np.isfinite(np.asarray(leaf, np.float32)).all():
            name = jax.tree_util.keystr(path)
            raise JaxcompError(
                f"expected finite parameters, got NaN or infinity in {name}; retrain"
            )

    made = _conversion_of(net, options)(variables, *example)
    if COLLECTION not in made:
        raise JaxcompError("expected a network with integer layers, got one without any")
    return {COLLECTION: made[COLLECTION]}


def from_integers(net: nn.Module, variables: Any, *example: Any, **options: Any) -> dict[str, Any]:
    """Parameters of which to_integers makes these integers again, or finer ones of the same values.

    variables: what to_integers gave, and parameters of what is not an integer layer; example and
    options as there, of floats. So training goes on where only the integers were kept.
    """
    found: dict[str, Any] = {}

    def note(following, arguments, keywords, context):
        if context.method_name != "layer":
            return following(*arguments, **keywords)
        x, _, settings, _ = arguments
        get, node = context.module.get_variable, found
        stored = IntegerWeights(*(np.asarray(get(COLLECTION, n)) for n in IntegerWeights._fields))
        for name in context.module.path:
            node = node.setdefault(name, {})
        node.update(floats_of(stored, settings))
        return float_layer(x, *map(jnp.asarray, (node["kernel"], node["bias"])), settings)

    with nn.intercept_methods(note):
        jax.eval_shape(lambda *arrays: net.apply(variables, *arrays, **options), *example)
    return {"params": {**variables.get("params", {}), **found}}


def _conversion_of(net, options):
    """What _conversion has cached, unless net or options hold arrays: no cache keeps those."""
    try:
        hash((net, *options.values()))
    except TypeError:
        return _conversion.__wrapped__(net, **options)
    return (_conversion if net.scope is None else _conversion.__wrapped__)(net, **options)


@functools.lru_cache(CONVERSIONS)
def _conversion(net, /, **options):
    """A program for each set of shapes: variables and examples -> collections."""

    @jax.jit
    def convert(variables, *example):
        return net.apply(variables, *example, mutable=[COLLECTION], **options)[1]

    return convert


def checkerboard_mask(size: int) -> Mask:
    """The taps of a size x size kernel at an odd distance from its centre: the other colour.

    He et al., Checkerboard context model for efficient learned image compression, CVPR 2021.
    """
    centre = size // 2
    return tuple(tuple((i + j - 2 * centre) % 2 == 1 for j in range(size)) for i in range(size))
