"""Integer layers compiled for an H200 and a TPU v5e: integers from one end to the other."""

import re

import jax
import jax.numpy as jnp
import pytest

from jaxcomp.nets.integer_layer import Options, run
from jaxcomp.nets.integer_weights import IntegerWeights
from tests.aot.machines import compile_for

FLOAT = re.compile(r"\b(?:bf16|f16|f32|f64)\[")


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize(
    "size, channels, features, dtype",
    [(3, 192, 192, "int8"), (3, 30, 13, "int8"), (1, 192, 12, "int16")],
)
def test_no_float_is_left_after_compilation(platform, size, channels, features, dtype):
    scalars = jax.ShapeDtypeStruct((features,), jnp.int32)
    weights = jax.ShapeDtypeStruct((size, size, channels, features), dtype)
    x = jax.ShapeDtypeStruct((1, 48, 96, channels), jnp.int8)
    layer = IntegerWeights(weights, scalars, scalars)
    program = compile_for(platform, lambda layer, x: run(layer, x, Options()), layer, x)
    text = program.compiled.as_text()
    assert "s8[" in text and "s32[" in text and not FLOAT.search(text)
    assert not {call for call in program.custom_calls if "conv" in call}
