"""Lossless leaves are decoded by the kernels of both chips, inside the program that uses them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.formats.layout import layout
from jaxcomp.weights.lossless import encode
from tests.aot.machines import KERNEL_CALL, compile_for


def _leaf(dtype, shape=(256, 512)):
    w = (np.random.default_rng(0).normal(size=shape)).astype(jnp.dtype(dtype))
    return jax.tree.map(
        lambda part: jax.ShapeDtypeStruct(part.shape, part.dtype),
        encode(w, layout(shape, (-2,)), 32),
    )


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_product_decodes_by_the_kernel(dtype, platform):
    x = jax.ShapeDtypeStruct((4, 256), jnp.dtype(dtype))
    program = compile_for(platform, jc.lift(jnp.matmul), x, _leaf(dtype))
    assert KERNEL_CALL[platform] in program.custom_calls
    assert not program.loops
    fused = dtype == "bfloat16" and platform == "cuda"
    assert ("exponent_decode" if fused else "rans_decode") in program.lowered.as_text()


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_stacked_layers_are_decoded_in_their_loop(platform):
    stack = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((8, *x.shape), x.dtype), _leaf("bfloat16", (512, 512))
    )

    def layers(stack, x):
        return jax.lax.scan(lambda x, w: (x @ w, None), x, stack)[0]

    x = jax.ShapeDtypeStruct((4, 512), jnp.bfloat16)
    program = compile_for(platform, jc.lift(layers), stack, x)
    assert program.compiled.as_text().count(f'custom_call_target="{KERNEL_CALL[platform]}"') == 1
