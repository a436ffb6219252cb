"""KL against SciPy, its minimum, and classes that are left out."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from scipy.stats import entropy

import jaxcomp as jc
from tests.drawn import drawn

KEYS = jax.random.split(jax.random.key(0), 2)
REFERENCE, LOGITS = (3 * drawn(jax.random.normal, key, (2, 5, 40)) for key in KEYS)


def softmax(x):
    e = np.exp(np.asarray(x, np.float64))
    return e / e.sum(-1, keepdims=True)


def test_it_is_scipys_relative_entropy():
    expected = entropy(softmax(REFERENCE), softmax(LOGITS), axis=-1).mean()
    np.testing.assert_allclose(jc.measures.kl_nats(REFERENCE, LOGITS), expected, rtol=1e-5)


def test_top_compares_the_likeliest_classes_of_the_reference():
    kept = np.argsort(-np.asarray(REFERENCE), -1)[..., :7]
    p, q = (np.take_along_axis(softmax(x), kept, -1) for x in (REFERENCE, LOGITS))
    expected = entropy(p, q, axis=-1).mean()  # which normalises both
    np.testing.assert_allclose(jc.measures.kl_nats(REFERENCE, LOGITS, top=7), expected, rtol=1e-5)


def test_all_classes_are_no_top():
    whole = jc.measures.kl_nats(REFERENCE, LOGITS)
    assert jc.measures.kl_nats(REFERENCE, LOGITS, top=1000) == whole


def test_a_model_that_agrees_is_at_zero_and_at_a_minimum():
    moved = REFERENCE.astype(jnp.bfloat16) + 2  # logits count up to a constant
    reference = moved.astype(jnp.float32) - 2
    assert abs(float(jc.measures.kl_nats(reference, moved))) < 1e-6
    gradient = jax.grad(jc.measures.kl_nats, argnums=1)(REFERENCE, REFERENCE)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_a_class_that_neither_has_counts_for_nothing():
    masked = [x.at[..., :3].set(-jnp.inf) for x in (REFERENCE, LOGITS)]
    value, gradient = jax.value_and_grad(jc.measures.kl_nats, argnums=1)(*masked)
    cut = jc.measures.kl_nats(REFERENCE[..., 3:], LOGITS[..., 3:])
    np.testing.assert_allclose(value, cut, rtol=1e-6)
    assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("logits", "top", "words"),
    [
        (LOGITS[0], None, "one shape"),
        (LOGITS, 1, "top >= 2"),
        (LOGITS, 2.5, "top >= 2 classes, got 2.5"),
        (LOGITS + 1j, None, "real numbers, got complex64"),
        ({"logits": LOGITS}, None, "arrays of real numbers, got <class 'dict'>; .* another loss"),
    ],
)
def test_what_cannot_be_compared_is_refused(logits, top, words, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as outside of tests
    with pytest.raises(jc.UnsupportedInput, match=words):
        jc.measures.kl_nats(REFERENCE, logits, top=top)
