"""Wide products are of bfloat16 on every accelerator, with float32 sums; all others are exact."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcomp.codecs.mixed_precision import WIDE, bfloat16_products
from tests.drawn import drawn

KEYS = jax.random.split(jax.random.key(0), 5)
PARAMS = {
    "kernel": drawn(jax.random.normal, KEYS[0], (3, 3, WIDE, WIDE)) / 17,
    "matrix": drawn(jax.random.normal, KEYS[1], (WIDE, WIDE)) / 6,
    "colour": drawn(jax.random.normal, KEYS[2], (3, WIDE)),
}
X = drawn(jax.random.normal, KEYS[3], (2, 8, 8, WIDE))


def loss(params, x):
    """Products in a scan, a checkpoint, a custom derivative, by einsum, and of integers."""
    names = ("NHWC", "HWIO", "NHWC")
    y = lax.conv_general_dilated(x, params["kernel"], (1, 1), "SAME", dimension_numbers=names)
    y, _ = lax.scan(lambda y, _: (jnp.tanh(y @ params["matrix"]), None), y, None, length=2)
    y = jax.nn.relu(jax.checkpoint(lambda y: jnp.einsum("bhwc,cd->bhwd", y, params["matrix"]))(y))
    y = y + x[..., :3] @ params["colour"]
    whole = jnp.round(lax.stop_gradient(x)).astype(jnp.int8)
    count = jnp.einsum("bhwc,bhwd->cd", whole, whole, preferred_element_type=jnp.int32)
    return (y**2).mean() * jnp.where(count[0, 0] > -1000, 1.0, 0.0)


def products(function, platform):
    """(name, dtypes of operands, of the result, whether float32 is asked for) of each product."""
    text = jax.jit(function).trace(PARAMS, X).lower(lowering_platforms=(platform,)).as_text()
    found = []
    for line in text.splitlines():
        if name := re.search(r"stablehlo\.(dot_general|convolution)", line):
            operands, result = line.rsplit(" : ", 1)[1].split(" -> ")
            types = [set(re.findall(r"x(bf16|f32|i8|i32)>", part)) for part in (operands, result)]
            found.append((name[1], *map("".join, types), "HIGHEST" in line))
    return found


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_wide_products_are_of_bfloat16(platform):
    found = products(bfloat16_products(jax.grad(loss)), platform)
    # On cuda a convolution has the type of its operands; its sums are float32 all the same.
    result = {"cuda": "bf16", "tpu": "f32"}[platform]
    forward_and_back = [each for each in found if each[0] == "convolution"]
    assert forward_and_back == [("convolution", "bf16", result, False)] * 2
    assert found.count(("dot_general", "bf16", "f32", False)) >= 6
    exact = [each for each in found if each[1] == "f32"]
    assert exact and all(each == ("dot_general", "f32", "f32", True) for each in exact)
    assert ("dot_general", "i8", "i32", False) in found


def test_products_are_left_alone_without_it():
    assert {each[1] for each in products(jax.grad(loss), "cuda")} == {"f32", "i8"}


def test_gradients_are_those_of_rounded_operands():
    expected = jax.jit(jax.grad(loss))(PARAMS, X)
    found = jax.jit(bfloat16_products(jax.grad(loss)))(PARAMS, X)
    for name, value in expected.items():
        assert found[name].dtype == jnp.float32
        error = jnp.linalg.norm(found[name] - value) / jnp.linalg.norm(value)
        # 2**-9 for each operand of a few layers, and here and there another side of a relu.
        assert 1e-4 < error < 0.1, name

    def product(x, w):
        return x @ w

    x, w = X.reshape(-1, WIDE), PARAMS["matrix"]
    rounded = [a.astype(jnp.bfloat16).astype(jnp.float32) for a in (x, w)]
    np.testing.assert_allclose(bfloat16_products(product)(x, w), product(*rounded), atol=1e-5)


def test_a_stated_precision_is_kept_and_so_are_narrow_products():
    def stated(x, w):
        return jnp.dot(x, w, precision="highest")

    def narrow(x, w):
        return x[:, : WIDE - 1] @ w[: WIDE - 1]

    x, w = X.reshape(-1, WIDE), PARAMS["matrix"]
    for function in (stated, narrow):
        np.testing.assert_array_equal(bfloat16_products(function)(x, w), function(x, w))
