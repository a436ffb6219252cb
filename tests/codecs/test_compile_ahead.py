"""Programs compiled ahead are those that are called."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.codecs import compile_ahead


@pytest.fixture
def compiled():
    """(name of the program, whether by a thread of ours) of each that is compiled."""
    seen = []

    def listen(event, seconds, *, fun_name=None, **_):
        if event.endswith("backend_compile_duration"):
            seen.append((fun_name, threading.current_thread().name.startswith("jaxcomp-compile")))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listen)


def test_a_call_finds_its_program(compiled):
    traced = []

    @jax.jit
    def double(x):
        traced.append(x.shape)
        return 2 * x

    def programs(add):
        out = add(double, np.ones(7, np.float32))
        add(double, jax.ShapeDtypeStruct((*out.shape, 2), np.int32))

    with pytest.raises(ZeroDivisionError):  # what fails is not done
        compile_ahead.compile_ahead("test", lambda add: 1 // 0)
    for _ in range(2):
        compile_ahead.compile_ahead("test", programs)
    ahead = [name for name, ours in compiled if ours]
    np.testing.assert_array_equal(double(jnp.ones(7)), np.full(7, 2))
    np.testing.assert_array_equal(double(np.ones((7, 2), np.int32)), np.full((7, 2), 2))
    assert traced == [(7,), (7, 2)] and len(ahead) == 2
    assert not [name for name, ours in compiled if "double" in str(name) and not ours]


@pytest.mark.slow
def test_a_photo_calls_what_was_compiled_ahead(compiled):
    jax.clear_caches()
    compile_ahead._done.clear()
    codec = jc.codecs.learned()
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    jc.codecs.load(jc.codecs.save(codec, image, quality=30))
    names = "_analyse", "_group", "_decide", "_pack", "_begin", "_pop", "_place"
    for name in names:
        assert {ours for found, ours in compiled if found == f"jit({name})"} == {True}, name
