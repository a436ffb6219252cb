"""Soft and hard rounding, bounds, expected gradients, tails: values and gradients."""

import numpy as np
import tensorflow as tf
import tensorflow_compression as tfc


def double(value):
    return tf.constant(value, tf.float64)


def with_gradient(function, x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return y, tape.gradient(y, x)


def operators():
    out = {}
    x = double(np.concatenate([np.linspace(-3.2, 3.2, 65) + 1e-3, [0.0, 0.5, -0.5, 1.5]]))
    out["x"] = x
    for alpha in (1e-4, 0.5, 4.0, 12.0):
        for name in ("soft_round", "soft_round_inverse", "soft_round_conditional_mean"):
            function = getattr(tfc, name)
            y, gradient = with_gradient(lambda v, f=function, a=alpha: f(v, double(a)), x)
            out[f"{name}/{alpha:g}"], out[f"{name}_gradient/{alpha:g}"] = y, gradient
    offset = double(np.linspace(-0.5, 0.5, 69))
    out["round_st/offset"] = offset
    out["round_st/value"], out["round_st/gradient"] = with_gradient(tfc.round_st, x)
    value, gradient = with_gradient(lambda v: tfc.round_st(v, offset), x)
    out["round_st/offset_value"], out["round_st/offset_gradient"] = value, gradient
    out["bound/at"], out["bound/cotangent"] = 0.4, np.where(np.arange(69) % 2, 1.5, -0.7)
    for name in ("lower_bound", "upper_bound"):
        for rule in ("identity_if_towards", "identity", "disconnected"):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = getattr(tfc, name)(x, double(0.4), rule)
            out[f"{name}/{rule}"] = tape.gradient(y, x, double(out["bound/cotangent"]))
        out[f"{name}/value"] = y
    noise = double(np.random.default_rng(10).uniform(-0.5, 0.5, 69))
    out["perturb_and_apply/noise"] = noise
    for expected in (True, False):
        slope = double(np.linspace(0.5, 2.0, 69))
        with tf.GradientTape() as tape:
            tape.watch([x, slope])
            y, _ = tfc.perturb_and_apply(
                lambda v, s: tf.sin(s * v), x, slope, u=noise, expected_grads=expected
            )
        key = "expected" if expected else "plain"
        out[f"perturb_and_apply/{key}"] = y
        gradients = tape.gradient(y, [x, slope])
        out[f"perturb_and_apply/{key}_x"], out[f"perturb_and_apply/{key}_slope"] = gradients
    out["perturb_and_apply/slope"] = np.linspace(0.5, 2.0, 69)
    target = double([-5.0, -1.0, 0.5, 3.0])
    out["estimate_tails/target"] = target
    out["estimate_tails/cubic"] = tfc.estimate_tails(
        lambda v: v + v**3 / 10, target, (4,), tf.float64
    )
    return out
