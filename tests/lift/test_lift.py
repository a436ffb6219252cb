"""lift on real packed weights: no dense copy is ever lowered, gradients, methods, compile time."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

import jaxcomp as jc
from tests.lift.cases import QUICK, check_law, normal, scaled

X = normal(4, 64)
GROUPS = jc.formats.INT4_G32


def _packed(*shape, format=GROUPS, axes=-2):
    return jax.jit(jc.formats.quantize, static_argnums=(1, 2))(normal(*shape), format, axes)


def _shapes(*shape, format=GROUPS, axes=-2, dtype=jnp.bfloat16):
    w = jax.ShapeDtypeStruct(shape, dtype)
    return jax.eval_shape(lambda w: jc.formats.quantize(w, format, axes), w)


def _rows(*shape, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct(shape, dtype)


def _convolve(w, x):
    return lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _layers(ws, x):
    return lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, ws)[0]


# Larger than a block that a kernel unpacks at a time.
LARGE = {
    "product": (lambda w, x: x @ w, _shapes(1024, 768), _rows(4, 1024)),
    "of torch": (lambda w, x: x @ w.T, _shapes(768, 1024, axes=-1), _rows(4, 1024)),
    "eight bits": (lambda w, x: x @ w, _shapes(1024, 768, format=jc.formats.INT8), _rows(4, 1024)),
    "layers": (_layers, _shapes(3, 1024, 1024), _rows(4, 1024)),
    "convolution": (_convolve, _shapes(3, 3, 128, 768, axes=(0, 1, 2)), _rows(1, 4, 4, 128)),
    "lookup": (lambda w, t: w[t], _shapes(2048, 768, axes=-1), _rows(4, 3, dtype=jnp.int32)),
    "one layer": (lambda ws, x: x @ ws[1], _shapes(3, 1024, 768), _rows(4, 1024)),
    "gradient": (
        lambda w, x: jax.grad(lambda x: (x @ w).astype(jnp.float32).sum())(x),
        _shapes(1024, 768),
        _rows(4, 1024),
    ),
}


# Later versions of JAX choose a kernel by the device that it is for.
KINDS = {"cuda": ("NVIDIA H100", 1, "gpu"), "tpu": ("TPU v5e", 1, "tpu")}


def _large(text, leaf):
    """Float tensors in a lowered program as large as the weight, whatever their axes."""
    size = leaf.size // (leaf.shape[0] if leaf.ndim == 3 else 1)
    found = set()
    for shape, dtype in re.findall(r"tensor<((?:\d+x)+)(f32|bf16|f16)>", text):
        if np.prod([int(n) for n in shape.split("x")[:-1]]) >= size:
            found.add(f"{shape}{dtype}")
    return found


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated")
@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize("name", LARGE)
def test_no_dense_copy_of_a_weight_is_lowered(name, platform):
    fn, leaf, x = LARGE[name]
    kind = AbstractDevice(*KINDS[platform]) if platform in KINDS else None
    with use_abstract_mesh(AbstractMesh((1,), ("all",), abstract_device=kind)):
        lifted = jax.jit(jc.lift(fn, strict=True)).trace(leaf, x)
        plain = jax.jit(lambda w, x: fn(w.dense(), x)).trace(leaf, x)
        texts = [f.lower(lowering_platforms=(platform,)).as_text() for f in (lifted, plain)]
    assert not _large(texts[0], leaf)
    assert _large(texts[1], leaf)


FORMATS = {
    "int8": jc.formats.INT8,
    "int4 in groups": GROUPS,
    "with zeros": jc.formats.UINT4_G32,
    "one scale": jc.formats.INT4._replace(group=None),
}


@pytest.mark.parametrize("name", FORMATS)
def test_gradients_of_inputs_and_scales_are_those_of_the_formula(name):
    w = _packed(64, 48, format=FORMATS[name])

    def loss(fn, x, bias, scales):
        leaf = functools.partial(jc.formats.QTensor, w.codes, zeros=w.zeros, format=w.format)
        leaf = leaf(scales=scales, dtype=w.dtype, packed=w.packed)
        return (fn(leaf, x, bias) ** 2).mean()

    def layer(w, x, bias):
        return jnp.tanh(x @ w + bias)

    def both(*args):
        packed = functools.partial(loss, jc.lift(layer, strict=True))
        plain = functools.partial(loss, lambda w, *rest: layer(w.dense(), *rest))
        return [jax.value_and_grad(f, (0, 1, 2))(*args) for f in (packed, plain)]

    scales = w.scales.astype(jnp.float32)
    got, expected = jax.jit(both, compiler_options=QUICK)(X, normal(48), scales)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * float(np.abs(b).max()))


def test_leaves_are_trained_through_jit_with_donation():
    w = _packed(64, 48)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(w, x):
        grads = jax.grad(lambda w: (jc.lift(jnp.matmul)(x, w) ** 2).mean(), allow_int=True)(w)
        return type(w)(
            w.codes, w.scales - 1e-4 * grads.scales, w.zeros, w.format, w.dtype, w.packed
        )

    before = float((X @ w.dense()).var())
    for _ in range(3):
        w = step(w, X)
    assert float((X @ w.dense()).var()) < before


def test_a_leaf_may_be_any_argument_and_several_of_them():
    def fn(x, *, head, tail):
        return x @ head @ tail["w"]

    head, tail = scaled(64, 8), {"w": scaled(8, 4)}
    got = jc.lift(fn)(X, head=head, tail=tail)
    np.testing.assert_allclose(got, X @ head.dense() @ tail["w"].dense(), rtol=1e-4, atol=1e-5)
    assert [r.path for r in jc.lift(fn).report(X, head=head, tail=tail).rows] == ["head", "tail/w"]


def test_it_reads_as_the_function_and_works_as_a_method():
    class Model:
        scale = 2.0

        def plain(self, w, x):
            """Scaled product."""
            return self.scale * (x @ w)

        @jc.lift
        def lifted(self, w, x):
            return self.plain(w, x)

    model, w = Model(), scaled(64, 8)
    lifted = jc.lift(model.plain)
    assert lifted.__name__ == "plain" and lifted.__doc__ == "Scaled product."
    assert lifted.__wrapped__ == model.plain
    np.testing.assert_allclose(model.lifted(w, X), lifted(w, X))
    np.testing.assert_allclose(lifted(w, X), 2 * (X @ w.dense()), rtol=1e-4, atol=1e-5)
    assert jc.lift(functools.partial(model.plain, x=X))(w).shape == (4, 8)


def test_lift_of_lift_vmap_and_scan_around_it():
    w = scaled(3, 64, 64)
    lifted = jc.lift(lambda w, x: jnp.tanh(x @ w), strict=True)
    plain = jax.vmap(lambda w, x: jnp.tanh(x @ w), (0, None))(w.dense(), X)
    np.testing.assert_allclose(jax.vmap(lifted, (0, None))(w, X), plain, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        jax.lax.map(lambda w: jc.lift(lifted)(w, X), w), plain, rtol=1e-4, atol=1e-5
    )
    check_law(lambda p, x: jax.vmap(lambda w: x @ w)(p), w, X)


def test_errors_name_the_leaf_the_operation_and_what_to_do():
    params = {"layers": [{"kernel": _packed(64, 48)}]}
    with pytest.raises(jc.MaterialisedLeaf) as error:
        jc.lift(lambda p, x: x @ jnp.abs(p["layers"][0]["kernel"]), strict=True)(params, X)
    assert "abs on layers/0/kernel (int4 g32)" in str(error.value)
    assert "leave it out with where=" in str(error.value)


def test_programs_do_not_grow_with_the_number_of_layers():
    sizes = []
    for count in (2, 12):
        leaf, x = _shapes(count, 64, 64), _rows(4, 64)
        sizes.append(len(jax.jit(jc.lift(_layers, strict=True)).lower(leaf, x).as_text()))
    assert sizes[1] < 1.02 * sizes[0]
